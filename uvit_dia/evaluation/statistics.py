"""Mean and covariance of features in a file, in place of the images that they came from.

The file is an .npz with `mu` (D,) and `sigma` (D, D), which pytorch-fid and others read and write
too; ours also say whose features they are. Statistics of others do not: their tools resize images
in another way than torch-fidelity, and distances to them differ from those to the images
themselves.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uvit_dia.data.arrays import ArrayHeader, array_headers, read_array
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically

FACTS = "uvit_dia"  # the array that says whose statistics they are, JSON as bytes
MAX_FEATURES = 2**14
_MAX_FACTS_BYTES = 2**16


@dataclass(frozen=True)
class Facts:
    """Whose statistics they are.

    Attributes:
        extractor: its label in results.
        extractor_sha256: of its file.
        layer: whose features they are.
        reference: name of the image set.
        reference_sha256: of its images, see `ImageSet.fingerprint`.
        num_images: how many.
    """

    extractor: str
    extractor_sha256: str
    layer: str
    reference: str
    reference_sha256: str
    num_images: int


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features.

    Attributes:
        mu: (D,) float32, as torch-fidelity computes it.
        sigma: (D, D) float64.
        facts: whose they are; None for those of other tools.
    """

    mu: NDArray[np.float32]
    sigma: NDArray[np.float64]
    facts: Facts | None

    def __len__(self) -> int:
        """Return how many images they are of; 0 where that is not known."""
        return 0 if self.facts is None else self.facts.num_images


def read_statistics(path: Path, flag: str = "--reference") -> Statistics:
    """Read statistics.

    Raises:
        InputError: if the file is damaged, or holds no mean and covariance of the same features.
    """
    headers = array_headers(path, flag)
    mu, sigma = headers.get("mu"), headers.get("sigma")
    width = mu.shape[0] if mu is not None and len(mu.shape) == 1 else 0
    fits = (
        mu is not None
        and sigma is not None
        and 1 <= width <= MAX_FEATURES
        and sigma.shape == (width, width)
        and mu.dtype.kind == sigma.dtype.kind == "f"
    )
    if not fits:
        held = ", ".join(f"{name} {h.dtype}{list(h.shape)}" for name, h in headers.items())
        raise InputError(
            f"{flag}: {path} must hold mu (D,) and sigma (D, D), numbers both; it holds {held:.80}"
        )
    found = Statistics(
        read_array(path, "mu", flag).astype(np.float32),
        read_array(path, "sigma", flag).astype(np.float64),
        _read_facts(path, headers, flag),
    )
    if not (np.isfinite(found.mu).all() and np.isfinite(found.sigma).all()):
        raise InputError(f"{flag}: {path} holds numbers that are not finite")
    if not np.allclose(found.sigma, found.sigma.T, rtol=1e-4, atol=1e-6):
        raise InputError(f"{flag}: {path}: sigma is no covariance, for it is not symmetric")
    return found


def _read_facts(path: Path, headers: dict[str, ArrayHeader], flag: str) -> Facts | None:
    header = headers.get(FACTS)
    if header is None:
        return None
    try:
        if header.dtype != "uint8" or header.shape[0] > _MAX_FACTS_BYTES:
            raise ValueError(f"{header.dtype}{list(header.shape)}")
        facts = Facts(**json.loads(read_array(path, FACTS, flag).tobytes()))
        kinds = {name: type(value) for name, value in asdict(facts).items()}
        if kinds != {**dict.fromkeys(kinds, str), "num_images": int}:
            raise ValueError(str(kinds))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{flag}: {path} does not say whose it is: {reason:.60}") from error
    return facts


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write statistics, which pytorch-fid reads too; the file is whole or not there."""
    arrays: dict[str, Any] = {"mu": statistics.mu, "sigma": statistics.sigma}
    if statistics.facts is not None:
        text = json.dumps(asdict(statistics.facts)).encode()
        arrays[FACTS] = np.frombuffer(text, dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
