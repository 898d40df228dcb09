"""Feature extractors, loaded through torch-fidelity.

`extractor_files.py` says where they come from.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from uvit_dia.evaluation.exported_programs import load_program
from uvit_dia.evaluation.extractor_files import DIGITS, ExtractorSource
from uvit_dia.evaluation.published_weights import PUBLISHED
from uvit_dia.system.errors import InputError
from uvit_dia.system.memory import is_out_of_memory


class Extractor:
    """A loaded extractor.

    Args:
        source: a checked source.
        device: where it runs.

    Attributes:
        source: the same.
        feature_layer: the layer of FID, KID, precision and recall.
        logits_layer: the layer of the Inception score, or None.
    """

    def __init__(self, source: ExtractorSource, device: torch.device | str) -> None:
        from torch_fidelity.utils import create_feature_extractor

        self.source = source
        self.device = torch.device(device)
        self.logits_layer = "logits_unbiased" if source.is_inception else None
        published = PUBLISHED.get(source.name)
        own_layer = "2048" if source.is_inception else "features"
        self.feature_layer = published.layer if published else own_layer
        registered = source.name if source.is_published else _register_program(source)
        if published and source.path.suffix == ".pth":
            _refuse_all_but_tensors(source.path)
        self._network = create_feature_extractor(
            registered,
            self.layers,
            cuda=False,
            feature_extractor_weights_path=str(source.path),
            device=self.device,
            verbose=False,
        ).to(self.device)

    @property
    def layers(self) -> list[str]:
        """All layers whose features are extracted."""
        return [self.feature_layer] + ([self.logits_layer] if self.logits_layer else [])

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images by layer, each (B, D) float32 on the CPU.

        Args:
            images: (B, C, H, W) uint8; for torch-fidelity's extractors grey ones are repeated to
                RGB.

        Raises:
            TypeError: if the images are not uint8.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        if self.source.is_published and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        try:
            features = self._network(images.to(self.device))
        except InputError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:100]
            raise InputError(
                f"--extractor {self.source.name} does not take images of shape "
                f"{tuple(images.shape[1:])}: {reason}"
            ) from error
        return {
            name: value.float().cpu()
            for name, value in self._network.convert_features_tuple_to_dict(features).items()
        }


def _refuse_all_but_tensors(path: Path) -> None:
    """Refuse what torch-fidelity would unpickle without limits, though its hash is right."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for other files
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"--weights: {path} is no file of tensors: {reason}") from error


def _register_program(source: ExtractorSource) -> str:
    """Register the digits classifier or a .pt2 program with torch-fidelity; return its name."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    kind = source.name.split(":")[0]
    registered = f"{kind}-{source.sha256[:16]}"
    if registered in FEATURE_EXTRACTORS_REGISTRY:
        return registered

    class ProgramExtractor(FeatureExtractorBase):
        """One feature layer, whatever program it comes from."""

        def __init__(
            self,
            name: str,
            features_list: list[str],
            *,
            feature_extractor_weights_path: str,
            device: torch.device,
            **kwargs: object,
        ) -> None:
            super().__init__(name, features_list)
            self.program = _load(kind, Path(feature_extractor_weights_path), device)

        def train(self, mode: bool = True) -> "ProgramExtractor":
            return self  # programs stay as they were exported; torch refuses to switch them

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            raise NotImplementedError("this extractor is not compiled")

        def forward(self, x: Tensor) -> tuple[Tensor]:
            features = self.program(x)
            if not isinstance(features, Tensor) or features.shape[:-1] != x.shape[:1]:
                found = tuple(features.shape) if isinstance(features, Tensor) else type(features)
                raise InputError(
                    f"--extractor {source.name}: {len(x)} images gave {found}, "
                    f"expected ({len(x)}, D)"
                )
            return (features.float(),)

    register_feature_extractor(registered, ProgramExtractor)
    return registered


def _load(kind: str, path: Path, device: torch.device) -> nn.Module:
    if kind == DIGITS:
        from uvit_dia.evaluation.digits_classifier import load_digits_classifier

        return load_digits_classifier(path)
    return load_program(path, device)
