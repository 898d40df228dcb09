"""Statistics of real images in place of the images: what is measured against them, and what not."""

from dataclasses import dataclass

from uvit_dia.evaluation.cache import Numbers
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.floor import Floor
from uvit_dia.evaluation.statistics import Statistics
from uvit_dia.system.errors import InputError

WITHOUT_IMAGES = "the reference is statistics, without images"


@dataclass(frozen=True)
class ReferenceStatistics:
    """Mean and covariance of features, and whose they are; see `features.Reference`.

    Attributes:
        name: of the image set, or of the file where that does not say.
        fingerprint: SHA-256 of the images, or of the file.
        features: by layer.
    """

    name: str
    fingerprint: str
    features: dict[str, Statistics]

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


class RealStatistics:
    """What `RealImages` is for images, for their statistics: no floor and no mark.

    Args:
        statistics: as they were read.
        extractor: gives the features of the images that are measured.
        name: of the file, for statistics that do not say whose they are.
        sha256: of the file.

    Raises:
        InputError: if they are of another extractor.
    """

    def __init__(
        self, statistics: Statistics, extractor: Extractor, *, name: str, sha256: str
    ) -> None:
        facts, source, layer = statistics.facts, extractor.source, extractor.feature_layer
        if facts is not None:
            if (facts.extractor_sha256, facts.layer) != (source.sha256, layer):
                raise InputError(
                    f"--reference: statistics of the extractor {facts.extractor} "
                    f"({facts.extractor_sha256:.8}...), not of {source.label} "
                    f"({source.sha256[:8]}...)"
                )
            name, sha256 = facts.reference, facts.reference_sha256
        self._reference = ReferenceStatistics(name, sha256, {layer: statistics})

    @property
    def reference(self) -> ReferenceStatistics:
        """The statistics."""
        return self._reference

    def floor(self, num_images: int) -> Floor:
        """Return that there is none."""
        return Floor.missing(f"no floor: {WITHOUT_IMAGES}")

    def smaller_floor(self, num_images: int) -> Floor | None:
        """Return None."""
        return None

    def gaussian_mark(self, num_images: int) -> Numbers:
        """Return that there is none."""
        return {
            "gaussian_mark": None,
            "gaussian_mark_num_images": None,
            "gaussian_mark_rule": f"not computed: {WITHOUT_IMAGES}",
        }
