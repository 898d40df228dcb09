"""Feature extractors for metrics: whose features they are, checked before use, registered with torch-fidelity.

`inception-v3-compat`  torch-fidelity's Inception, the only one whose Frechet distance is called FID
`digits`               a small classifier of scikit-learn's digits that ships with this package
`pt2:PATH`             any `torch.export` program, uint8 (N, C, H, W) -> float (N, D)
"""

import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from uvit_dia.errors import InputError
from uvit_dia.files import download, sha256_file

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
DIGITS_FILE = Path(__file__).parent / "assets" / "digits_extractor.safetensors"
DIGITS_SHA256 = "f9bf1ad539d42269cfba2052c1d2cf764a082ab8ae927030939820a312060e6a"
MAX_PROGRAM_BYTES = 2 * 2**30

# What a .pt2 archive may hold: torch.export.load would unpickle anything else that it knows.
_PROGRAM_MEMBERS = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|\w+_weights_config\.json)|data/constants/(tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/\w+\.pt|models/\w+\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment)"
)
_SIZE_EXPRESSION = re.compile(r"(?:[su]\d+|\d+|Max|Min|Mod|FloorDiv|[\s+\-*/(),])*")


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
        _check_program(path)
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


def _check_program(path: Path) -> None:
    """Refuse a .pt2 archive that torch.export.load would unpickle, or evaluate as an expression.

    torch loads such archives with `weights_only=False` in several places; a program of tensors, operators and sizes
    needs none of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_PROGRAM_BYTES:
                raise InputError(
                    f"--extractor: {path} unpacks to more than {MAX_PROGRAM_BYTES} bytes"
                )
            for name in archive.namelist():
                if not _PROGRAM_MEMBERS.fullmatch(name):
                    raise InputError(
                        f"--extractor: {path} holds {name[:60]}, which a feature extractor does not need"
                    )
                if name.endswith(".json"):
                    _check_program_json(json.loads(archive.read(name)), path)
                elif name.endswith(".pt"):
                    with archive.open(name) as file:
                        torch.load(_seekable(file.read()), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # zipfile, json and torch raise many types for a file that is no such archive
        reason = " ".join(str(error).split())[:80]
        raise InputError(
            f"--extractor: {path} is no readable torch.export program: {reason}"
        ) from error


def _seekable(content: bytes) -> "io.BytesIO":  # noqa: F821
    import io

    return io.BytesIO(content)


def _check_program_json(value: object, path: Path) -> None:
    """Refuse payloads marked as pickles, and size expressions that are more than arithmetic."""
    if isinstance(value, dict):
        if value.get("use_pickle"):
            raise InputError(f"--extractor: {path} holds pickled tensors, which are not read")
        text = value.get("expr_str", "0")
        if not isinstance(text, str) or not _SIZE_EXPRESSION.fullmatch(text):
            raise InputError(
                f"--extractor: {path} holds the size expression {str(text)[:40]!r}, which is not read"
            )
        for item in value.values():
            _check_program_json(item, path)
    elif isinstance(value, list):
        for item in value:
            _check_program_json(item, path)


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
        except (RuntimeError, AssertionError) as error:
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

    registered = f"{source.name.split(':')[0]}-{source.sha256[:16]}"
    if registered in FEATURE_EXTRACTORS_REGISTRY:
        return registered

    class ProgramExtractor(FeatureExtractorBase):
        """One feature layer, whatever program it comes from."""

        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.program = _load_program(source)

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
            return (self.program(x).float(),)

    register_feature_extractor(registered, ProgramExtractor)
    return registered


def _load_program(source: ExtractorSource) -> nn.Module:
    if source.name == "digits":
        from uvit_dia.assets.digits_classifier import load_digits_classifier

        return load_digits_classifier(source.path)
    try:
        return torch.export.load(source.path).module()
    except Exception as error:  # a program of another torch version fails in many ways
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"--extractor: this torch cannot load {source.path}: {reason}") from error
