"""Which keys of the group `data` fit each other."""

from uvit_dia.config.training import LISTED, DataConfig
from uvit_dia.system.errors import InputError


def check_data(data: DataConfig) -> None:
    """Refuse keys of the group `data` that do not fit its kind of image set.

    Raises:
        InputError: naming the first, what was found and what is allowed.
    """
    if data.name not in ("digits", "cifar10") and not data.path:
        raise InputError(f"data.path is empty; data.name = {data.name!r} needs a path")
    if data.stream_images and data.name != "hf":
        raise InputError(
            f"data.stream_images = {data.stream_images}: data.name = {data.name!r} has no stream; "
            "allowed with hf"
        )
    if data.stream_all:
        _check_stream(data)
    if not data.memory_map:
        return
    if data.name not in LISTED:
        raise InputError(
            f"data.memory_map = True: {data.name} is read as a whole; allowed with "
            f"{', '.join(LISTED)}"
        )
    for name in ("on_device", "held_out_images"):
        if getattr(data, name):
            raise InputError(
                f"data.memory_map = True: data.{name} = {getattr(data, name)} would copy the set "
                f"into memory; allowed is {type(getattr(data, name))()}"
            )


def _check_stream(data: DataConfig) -> None:
    if not data.stream_images:
        raise InputError(
            "data.stream_all = True: data.stream_images = 0; it must say how many images are in "
            "memory at a time"
        )
    if data.memory_map:
        raise InputError("data.stream_all = True keeps images in memory; data.memory_map is False")
    if data.held_out_images:
        raise InputError(
            f"data.stream_all = True: data.held_out_images = {data.held_out_images} would be "
            "trained on when the stream begins again; allowed is 0"
        )
