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
        class_names: of a network that is told the classes; None for others, to which labels are
            nothing.
    """

    num_images: int
    images_sha256: str
    labels_sha256: str | None
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, images: ImageSet, *, with_labels: bool = False) -> "DataIdentity":
        """Return the identity of an image set, for a network that is told the classes or is not."""
        names = images.class_names if with_labels else None
        return cls(len(images), images.fingerprint(), images.labels_fingerprint(), names)

    @classmethod
    def saved_in(cls, checkpoint: Checkpoint) -> "DataIdentity | None":
        """Return that of a checkpoint's training images; None for one that does not record it."""
        return cls.from_dict(checkpoint.manifest.get("data"))

    @classmethod
    def from_dict(cls, data: object) -> "DataIdentity | None":
        """Return what `as_dict` gave; None for anything else."""
        if not isinstance(data, dict):
            return None
        num_images, images, labels = map(data.get, ("num_images", "images_sha256", "labels_sha256"))
        if not isinstance(num_images, int) or not isinstance(images, str):
            return None
        names = data.get("class_names")
        class_names = tuple(map(str, names)) if isinstance(names, list) else None
        return cls(num_images, images, labels if isinstance(labels, str) else None, class_names)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON's types; without class names where labels are nothing."""
        found = asdict(self)
        names = found.pop("class_names")
        return found if names is None else {**found, "class_names": list(names)}

    def __str__(self) -> str:
        return f"{self.num_images} images ({self.images_sha256[:8]})"

    def has_other_images(self, other: "DataIdentity") -> bool:
        """Say whether the images differ, or the labels that a network is told."""
        is_told = self.class_names is not None and other.class_names is not None
        other_labels = is_told and self.labels_sha256 != other.labels_sha256
        return self.images_sha256 != other.images_sha256 or other_labels


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
    if trained_on.images_sha256 == found.images_sha256:
        hint = ", whose labels differ"
    difference = (
        f"step {step} was trained on {trained_on}, but data.path leads to {found} now{hint}"
    )
    if not allow_other_data:
        raise InputError(f"{difference}; --allow_other_data permits that")
    warn(difference)
