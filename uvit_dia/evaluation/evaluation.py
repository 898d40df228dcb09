"""What an evaluation takes and gives: images by index, what they are compared with, a record."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from uvit_dia.evaluation.cache import Numbers
from uvit_dia.evaluation.features import Reference
from uvit_dia.evaluation.floor import Floor
from uvit_dia.evaluation.real_statistics import ReferenceStatistics


class Images(Protocol):
    """Images that are asked for by index."""

    @property
    def batch_size(self) -> int:
        """Images of a block; a block belongs to one process."""

    @property
    def nfe(self) -> int | None:
        """Network calls that an image took; None for images that are not sampled here."""

    def sample(self, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield images, (n, C, H, W) uint8, part by part, each with its indices."""

    def facts(self) -> dict[str, object]:
        """Return what the images depend on, as JSON's types."""


class Real(Protocol):
    """What images are measured against: real images (`RealImages`), or their statistics."""

    @property
    def reference(self) -> Reference | ReferenceStatistics:
        """Features of all of them, or mean and covariance of the features."""

    def floor(self, num_images: int) -> Floor:
        """Return what as many other real images have."""

    def smaller_floor(self, num_images: int) -> Floor | None:
        """Return the floor at the largest N below num_images that has one."""

    def gaussian_mark(self, num_images: int) -> Numbers:
        """Return what a Gaussian in pixels has."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what it depends on, both as JSON's types.

    Attributes:
        metric: the name of the Frechet distance, "fid" or "fd"; None where it was not asked for.
        values: metrics, floor and mark, number of images, network calls, seconds.
        facts: extractor, reference, and what the images depend on.
    """

    metric: str | None
    values: dict[str, object]
    facts: dict[str, object]

    @property
    def value(self) -> float | None:
        """The Frechet distance."""
        found = None if self.metric is None else self.values[self.metric]
        assert found is None or isinstance(found, float)
        return found

    def record(self) -> dict[str, object]:
        """Return the whole as one record."""
        return {"metric": self.metric, "value": self.value, **self.values, **self.facts}

    def in_words(self) -> str:
        """Say the distance beside its marks, on one line; "" where there is none."""
        if self.value is None:
            return ""
        values = self.values
        text = f"{self.metric}@{values['num_images']} = {self.value:.4g}"
        if values["floor"] is not None:
            spread = values["floor_std"]
            more = "" if spread is None else f" +- {spread:.2g}"
            text += f", floor of real images {values['floor']:.4g}{more} ({values['floor_rule']})"
        else:
            text += f", {values['floor_rule']}"
        if "matched_value" in values:
            text += (
                f"; at {values['matched_num_images']} images {values['matched_value']:.4g}, "
                f"real ones {values['matched_floor']:.4g}"
            )
        if values["gaussian_mark"] is not None:
            text += f"; a Gaussian in pixels has {values['gaussian_mark']:.4g}"
        if "held_out_loss" in values:
            text += f"; held-out loss {values['held_out_loss']:.4g}"
        return text
