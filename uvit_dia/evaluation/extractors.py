"""Feature extractors for metrics: whose features they are, checked before use, registered with torch-fidelity.

`inception-v3-compat`  torch-fidelity's Inception, the only one whose Frechet distance is called FID
`digits`               a small classifier of scikit-learn's digits that ships with this package
`pt2:PATH`             any `torch.export` program, uint8 (N, C, H, W) -> float (N, D)
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from uvit_dia.config.checks import extractor_label
from uvit_dia.evaluation.exported_programs import check_program, load_program
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import download, sha256_file
from uvit_dia.system.memory import is_out_of_memory

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
DIGITS_FILE = Path(__file__).parent / "digits_extractor.safetensors"
DIGITS_SHA256 = "f9bf1ad539d42269cfba2052c1d2cf764a082ab8ae927030939820a312060e6a"


@dataclass(frozen=True)
class ExtractorSource:
    """A feature extractor whose file was found and checked, not yet loaded.

    Attributes:
        name: as the user named it.
        path: its file.
        sha256: of the file.
    """

    name: str
    path: Path
    sha256: str

    @property
    def label(self) -> str:
        """What results call it."""
        return extractor_label(self.name)

    @property
    def is_inception(self) -> bool:
        """Whether numbers from it may be called FID, KID and Inception score."""
        return self.name == INCEPTION


def find_extractor(
    name: str, weights: str = "", *, allow_download: bool = False
) -> ExtractorSource:
    """Find the file of an extractor and check it, before anything costly starts.

    Args:
        name: "inception-v3-compat", "digits" or "pt2:PATH".
        weights: path of the Inception weights; "" for torch-fidelity's own place.
        allow_download: whether missing Inception weights are downloaded to that place.

    Raises:
        InputError: if the name is unknown, or the file is missing or not the one it should be.
    """
    if name == INCEPTION:
        path = Path(weights) if weights else default_inception_path()
        if not path.is_file() and allow_download and not weights:
            download(INCEPTION_URL, path, INCEPTION_SHA256, show_progress=True)
        if not path.is_file():
            raise InputError(
                f"--weights: no Inception weights at {path}; get {INCEPTION_URL} (SHA-256 {INCEPTION_SHA256[:8]}...) "
                "or give --download_weights"
            )
        return _checked(name, path, INCEPTION_SHA256)
    if weights:
        raise InputError(f"--weights goes with --extractor {INCEPTION}, got --extractor {name}")
    if name == "digits":
        return _checked(name, DIGITS_FILE, DIGITS_SHA256)
    if name.startswith("pt2:"):
        path = Path(name.removeprefix("pt2:"))
        if not path.is_file():
            raise InputError(f"--extractor: no file {path}")
        check_program(path)
        return ExtractorSource(name, path, sha256_file(path))
    raise InputError(f"--extractor {name!r}: unknown; allowed is {INCEPTION}, digits or pt2:PATH")


def default_inception_path() -> Path:
    """Return where torch-fidelity keeps its Inception weights: torch.hub's checkpoint folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch")
    return home / "hub" / "checkpoints" / INCEPTION_FILE


def _checked(name: str, path: Path, expected: str) -> ExtractorSource:
    found = sha256_file(path)
    if found != expected:
        raise InputError(
            f"{path} is not the expected file: SHA-256 {found[:16]}..., expected {expected[:16]}..."
        )
    return ExtractorSource(name, path, found)


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
        self.feature_layer = "2048" if source.is_inception else "features"
        layers = [self.feature_layer] + ([self.logits_layer] if self.logits_layer else [])
        registered = source.name if source.is_inception else _register_program(source)
        self._network = create_feature_extractor(
            registered,
            layers,
            cuda=False,
            feature_extractor_weights_path=str(source.path),
            device=self.device,
            verbose=False,
        ).to(self.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images by layer, each (B, D) float32 on the CPU.

        Args:
            images: (B, C, H, W) uint8; for Inception grey ones are repeated to RGB.

        Raises:
            TypeError: if the images are not uint8.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        if self.source.is_inception and images.shape[1] == 1:
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
                f"--extractor {self.source.name} does not take images of shape {tuple(images.shape[1:])}: {reason}"
            ) from error
        return {
            name: value.float().cpu()
            for name, value in self._network.convert_features_tuple_to_dict(features).items()
        }


def _register_program(source: ExtractorSource) -> str:
    """Register the digits classifier or a .pt2 program with torch-fidelity; return the name that it has there."""
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
                    f"--extractor {source.name}: {len(x)} images gave {found}, expected ({len(x)}, D)"
                )
            return (features.float(),)

    register_feature_extractor(registered, ProgramExtractor)
    return registered


def _load(kind: str, path: Path, device: torch.device) -> nn.Module:
    if kind == "digits":
        from uvit_dia.evaluation.digits_classifier import load_digits_classifier

        return load_digits_classifier(path)
    return load_program(path, device)
