"""Class labels of an image set, and what a conditional network asks of them."""

from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError


def check_labels(images: ImageSet, config: Config) -> None:
    """Check that every image has a class that the network knows; nothing for other networks.

    Raises:
        InputError: saying how many images lack a label, or how many classes there are.
    """
    if not config.is_conditional:
        return
    wanted = config.num_data_classes
    if images.labels is None:
        raise InputError(
            f"model.num_classes = {config.model.num_classes}: {images.name} has no labels; folders "
            "of images take them from their sub-folders"
        )
    missing = int((images.labels < 0).sum())
    if missing:
        raise InputError(
            f"model.num_classes = {config.model.num_classes}: {missing} of {len(images)} images of "
            f"{images.name} have no label"
        )
    found = max(len(images.class_names), int(images.labels.max()) + 1)
    if found != wanted:
        extra = ", and one label for no class" if config.null_class is not None else ""
        raise InputError(
            f"model.num_classes = {config.model.num_classes} stands for {wanted} classes{extra}; "
            f"{images.name} has {found}"
        )
