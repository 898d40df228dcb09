"""Which file a feature extractor comes from: found and checked before torch is imported.

`inception-v3-compat`  torch-fidelity's Inception, the only one whose Frechet distance is called FID
`clip-*`, `vgg16`      torch-fidelity's others, see `published_weights.py`; their distance is an FD
`digits`               a small classifier of scikit-learn's digits that ships with this package
`pt2:PATH`             any `torch.export` program, uint8 (N, C, H, W) -> float (N, D)
"""

from dataclasses import dataclass
from pathlib import Path

from uvit_dia.config.checks import extractor_label
from uvit_dia.config.schema import EvalConfig
from uvit_dia.evaluation.exported_programs import check_program
from uvit_dia.evaluation.published_weights import PUBLISHED, PublishedWeights
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import download, expand_home, sha256_file

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
DIGITS = "digits"
DIGITS_FILE = Path(__file__).parent / "digits_extractor.safetensors"
DIGITS_SHA256 = "f9bf1ad539d42269cfba2052c1d2cf764a082ab8ae927030939820a312060e6a"
PROGRAM = "pt2:"  # stands before the path of a program


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

    @property
    def is_published(self) -> bool:
        """Whether it is one of torch-fidelity's, which take images of three channels."""
        return self.is_inception or self.name in PUBLISHED

    @property
    def frechet_name(self) -> str:
        """What results call its Frechet distance."""
        return "fid" if self.is_inception else "fd"

    @property
    def title(self) -> str:
        """What pictures and sentences call its Frechet distance."""
        return "FID" if self.is_inception else f"FD ({self.label})"


def extractor_at_home(name: str | None) -> str | None:
    """Return an extractor as a user names it, with the home folder for a program's `~`."""
    if name is None or not name.startswith(PROGRAM):
        return name
    return PROGRAM + expand_home(name.removeprefix(PROGRAM), "--extractor")


def choose_extractor(
    configured: EvalConfig,
    extractor: str | None = None,
    weights: str | None = None,
    *,
    allow_download: bool = False,
) -> ExtractorSource:
    """Find the extractor of a config's group `eval`, or another one that was asked for.

    Args:
        configured: the group.
        extractor: the one asked for; None or "" for that of the config.
        weights: path of the Inception weights; None or "" for that of the config, if the extractor
            is the config's too.
        allow_download: see `find_extractor`.

    Raises:
        InputError: see `find_extractor`.
    """
    name = extractor or configured.extractor
    if not weights:
        weights = configured.weights if name == configured.extractor else ""
    return find_extractor(name, weights, allow_download=allow_download)


def find_extractor(
    name: str, weights: str = "", *, allow_download: bool = False
) -> ExtractorSource:
    """Find the file of an extractor and check it, before anything costly starts.

    Args:
        name: "inception-v3-compat", one of `PUBLISHED`, "digits" or "pt2:PATH".
        weights: path of the published weights; "" for torch-fidelity's own place.
        allow_download: whether missing published weights are downloaded to that place.

    Raises:
        InputError: if the name is unknown, or the file is missing or not the one it should be.
    """
    if name == INCEPTION or name in PUBLISHED:
        return _find_published(name, weights, allow_download=allow_download)
    if weights:
        raise InputError(f"--weights goes with --extractor {INCEPTION}, got --extractor {name}")
    if name == DIGITS:
        return _checked(name, DIGITS_FILE, DIGITS_SHA256)
    if name.startswith(PROGRAM):
        path = Path(name.removeprefix(PROGRAM))
        if not path.is_file():
            raise InputError(f"--extractor: no file {path}")
        check_program(path)
        return ExtractorSource(name, path, _sha256(path))
    names = (INCEPTION, *PUBLISHED, DIGITS)
    raise InputError(
        f"--extractor {name!r:.60}: unknown; allowed is {INCEPTION}, {DIGITS}, vgg16, "
        f"clip-vit-b-32 and torch-fidelity's other CLIPs, or {PROGRAM}PATH"
        f"{nearest(name, names)}"
    )


def _find_published(name: str, weights: str, *, allow_download: bool) -> ExtractorSource:
    """Find weights that others publish, and check them; see `find_extractor`."""
    inception = PublishedWeights(INCEPTION_FILE, INCEPTION_SHA256, INCEPTION_URL, "2048")
    published = PUBLISHED.get(name, inception)
    path = Path(weights) if weights else published.path
    if not path.is_file() and allow_download and not weights:
        download(published.url, path, published.sha256, show_progress=True)
    if not path.is_file():
        what = "Inception" if name == INCEPTION else name
        raise InputError(
            f"--weights: no {what} weights at {path}; get {published.url} "
            f"(SHA-256 {published.sha256[:8]}...) or give --download_weights"
        )
    return _checked(name, path, published.sha256)


def _checked(name: str, path: Path, expected: str) -> ExtractorSource:
    found = _sha256(path)
    if found != expected:
        raise InputError(
            f"{path} is not the expected file: SHA-256 {found[:16]}..., expected {expected[:16]}..."
        )
    return ExtractorSource(name, path, found)


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
