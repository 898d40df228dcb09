"""Look at an image set: what lies there, and what a training would see of it.

    python -m uvit_dia.data PATH [--name folder] [--img_size 64] [--output grid.png]
    python -m uvit_dia.data --config CONFIG [--config.data.path=PATH]

Prints what was read and left out, the classes, the range of the pixels, and images that occur more
than once. With --config it reads what that config would. Nothing is changed.
PATH is a folder, a .zip, .npz or .parquet file, or with --name hf also a set on the Hugging Face
Hub, OWNER/NAME. Images that differ in size, or are not square, need --img_size.
"""

from dataclasses import replace
from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.any_config import read_any_config
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.places import shown_usage
from uvit_dia.config.schema import Config
from uvit_dia.config.training import DATA_NAMES
from uvit_dia.data.kind import guess_kind
from uvit_dia.data.paths import check_path
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

USAGE = __doc__ or ""
RESIZE_BY_FLAG = "--img_size N would scale and crop all to N x N"


def main(argv: list[str]) -> None:
    """Read the command line, read the set, and print what it is.

    Raises:
        InputError: if there is no such set, or it cannot be read.
    """
    config, output = read_arguments(argv)
    check_path(config.data.name, config.data.path)
    with told_if_slow("importing torch and its companions"):
        from uvit_dia.data.listing import WrongSizeError
        from uvit_dia.data.look import look_at

    try:
        look_at(config, output)
    except WrongSizeError as error:
        if not _names_a_path(argv):
            raise  # the keys of a config are what the user wrote
        raise WrongSizeError(error.fact, RESIZE_BY_FLAG) from error


def read_arguments(argv: list[str]) -> tuple[Config, Path | None]:
    """Read a command line; return a config with the set in its group `data`, and where a grid goes.

    Raises:
        InputError: if something is missing or wrong.
    """
    values = cli.new_flags()
    define_config_flag(values, group=None)
    flags.DEFINE_string("name", None, f"Kind: {', '.join(DATA_NAMES)}.", flag_values=values)
    flags.DEFINE_integer(
        "img_size", None, "Side of the images; scaled and cropped to it.", flag_values=values
    )
    flags.DEFINE_integer("in_chans", 3, "1 for grey, 3 for RGB.", flag_values=values)
    flags.DEFINE_integer(
        "stream_images", 0, "Of kind hf, take the first so many of its stream.", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Write some of the images to this .png.", flag_values=values
    )
    words = list(argv[1:])
    path = words.pop(0) if _names_a_path(argv) else None
    cli.parse_flags(values, [argv[0], *words], shown_usage(USAGE, argv[0]))
    output = _output(values["output"].value)
    if values["config"].value is not None:
        if path is not None:
            raise InputError("data: a path or --config, not both; --config.data.path names it")
        return read_config(values), output
    if path is None:
        raise InputError("data: the set is missing; for example data IMAGES, or --config CONFIG")
    name = values["name"].value or guess_kind(path)
    if name not in DATA_NAMES:
        raise InputError(f"--name {name[:40]!r}: unknown{nearest(name, DATA_NAMES)}")
    size, channels = values["img_size"].value, values["in_chans"].value
    if channels not in (1, 3):
        raise InputError(f"--in_chans {channels}: allowed is 1 or 3")
    if size is not None and not 1 <= size <= 4096:
        raise InputError(f"--img_size {size}: allowed is 1 to 4096")
    streamed: int = values["stream_images"].value or 0
    if streamed and (name != "hf" or streamed < 0):
        raise InputError(f"--stream_images {streamed}: 1 or more, and only with --name hf")
    return _config(path, name, size, channels, streamed), output


def _names_a_path(argv: list[str]) -> bool:
    return len(argv) > 1 and not argv[1].startswith("-")


def _config(path: str, name: str, size: int | None, channels: int, streamed: int) -> Config:
    base = read_any_config("digits_uvit_dia")
    data = replace(base.data, name=name, path=path, stream_images=streamed)
    data = replace(data, resize=size is not None, skip_unreadable=True)
    # a size of 1 stands for that of the first image
    model = replace(base.model, img_size=size or 1, patch_size=1, in_chans=channels)
    return replace(base, data=data, model=model)


def _output(text: str | None) -> Path | None:
    if text is None:
        return None
    path = user_path(text, "--output")
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise InputError(f"--output {path}: must be a .png in a folder that is there")
    return path


if __name__ == "__main__":
    cli.run_command(main)
