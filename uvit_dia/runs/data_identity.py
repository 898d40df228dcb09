"""Which images a run was trained on: recorded in checkpoints, compared with images at hand."""

from dataclasses import asdict, dataclass

from uvit_dia.data.images import ImageSet
from uvit_dia.runs.checkpoint import Checkpoint, Warn
from uvit_dia.system.errors import InputError


@dataclass(frozen=True)
class DataIdentity:
    """What tells one image set from another.

    Attributes:
        num_images: how many there are.
        images_sha256: of the images and their shape, see `ImageSet.fingerprint`.
        labels_sha256: of their labels; None where there are none.
    """

    num_images: int
    images_sha256: str
    labels_sha256: str | None

    @classmethod
    def of(cls, images: ImageSet) -> "DataIdentity":
        """Return the identity of an image set."""
        return cls(len(images), images.fingerprint(), images.labels_fingerprint())

    @classmethod
    def saved_in(cls, checkpoint: Checkpoint) -> "DataIdentity | None":
        """Return that of a checkpoint's training images; None for one that does not record it."""
        data = checkpoint.manifest.get("data")
        if not isinstance(data, dict):
            return None
        num_images, images, labels = map(data.get, ("num_images", "images_sha256", "labels_sha256"))
        if not isinstance(num_images, int) or not isinstance(images, str):
            return None
        return cls(num_images, images, labels if isinstance(labels, str) else None)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON's types."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.num_images} images ({self.images_sha256[:8]})"

    def has_other_images(self, other: "DataIdentity") -> bool:
        """Say whether the images differ; labels may, as long as no model is trained on them."""
        return self.images_sha256 != other.images_sha256


def check_same_images(
    trained_on: DataIdentity,
    found: DataIdentity,
    step: int,
    *,
    allow_other_data: bool,
    warn: Warn,
) -> None:
    """Compare images with those that a checkpoint was trained on.

    Args:
        trained_on: of the checkpoint.
        found: of the images at hand.
        step: of the checkpoint.
        allow_other_data: whether other images are only a warning.
        warn: called with one line if they differ and may.

    Raises:
        InputError: if they differ and may not.
    """
    if not trained_on.has_other_images(found):
        return
    is_alike = trained_on.num_images == found.num_images
    hint = ", or another Pillow decodes them otherwise" if is_alike else ""
    difference = (
        f"step {step} was trained on {trained_on}, but data.path leads to {found} now{hint}"
    )
    if not allow_other_data:
        raise InputError(f"{difference}; --allow_other_data permits that")
    warn(difference)
