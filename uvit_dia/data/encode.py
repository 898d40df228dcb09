"""Encode an image set once into latents, which a network is then trained on.

    python -m uvit_dia.data.encode IMAGES --vae VAE --output LATENTS --img_size 256

IMAGES is a set as in `data.path`; VAE is a diffusers AutoencoderKL: a folder, or an id on the Hub
such as stabilityai/sd-vae-ft-ema, with ":SUBFOLDER" behind it if it is part of a pipeline. Run the
same command again to resume. Of a set that has moved, the same command notes the new place.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from absl import flags

from uvit_dia import cli
from uvit_dia.config.any_config import read_any_config
from uvit_dia.config.latents import DTYPES
from uvit_dia.config.places import shown_usage
from uvit_dia.config.schema import Config
from uvit_dia.config.training import DATA_NAMES, LATENTS, LISTED
from uvit_dia.data.kind import guess_kind
from uvit_dia.data.paths import check_path
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

USAGE = __doc__ or ""
NAMES = tuple(name for name in DATA_NAMES if name != LATENTS)


def main(argv: list[str]) -> None:
    """Read the command line, encode the set, and say how to train on it.

    Raises:
        InputError: if set, autoencoder or folder do not fit.
        StorageError: if the latents cannot be written.
    """
    values = _define()
    words = list(argv[1:])
    path = words.pop(0) if words and not words[0].startswith("-") else None
    cli.parse_flags(values, [argv[0], *words], shown_usage(USAGE, argv[0]))
    found = values.flag_values_dict()
    for name in ("vae", "output", "img_size"):
        if not found[name]:
            raise InputError(f"encode: --{name} is missing; see --help")
    if path is None:
        raise InputError("encode: the set is missing; for example encode IMAGES --vae VAE ...")
    output = user_path(found["output"], "--output")
    config = _config(path, found)
    check_path(config.data.name, config.data.path)
    with told_if_slow("importing torch and its companions"):
        from uvit_dia.data.encoding import Request, encode_set
        from uvit_dia.system.accelerator import make_accelerator
        from uvit_dia.system.memory import memory_advice

    accelerator = make_accelerator()
    if accelerator.num_processes > 1:
        raise InputError("encode runs in one process; start it without a launcher")
    request = Request(
        config=config,
        vae=found["vae"],
        has_std=found["posterior"] == "sample",
        dtype=found["dtype"],
        is_mirrored=found["mirrored"],
        batch_size=found["batch_size"],
    )
    with memory_advice("in the autoencoder; give a lower --batch_size"):
        encode_set(request, output, accelerator.device)


def _define() -> flags.FlagValues:
    values = cli.new_flags()

    def define(kind: Callable[..., object], name: str, default: object, *rest: object) -> None:
        kind(name, default, *rest, flag_values=values)

    integer, text, switch = flags.DEFINE_integer, flags.DEFINE_string, flags.DEFINE_bool
    define(text, "name", None, f"Kind of set: {', '.join(NAMES)}.")
    define(text, "vae", None, "Folder or Hub id of the autoencoder.")
    define(text, "output", None, "Folder for the latents.")
    define(integer, "img_size", None, "Side of the images; scaled and cropped to it.", 1, 4096)
    define(integer, "in_chans", 3, "1 for grey, 3 for RGB.", 1, 3)
    define(
        flags.DEFINE_enum,
        "posterior",
        "sample",
        ["sample", "mean"],
        "sample: keep mean and standard deviation, and let training draw x_0 anew each time; "
        "mean: keep the mean, in half the space.",
    )
    define(flags.DEFINE_enum, "dtype", "float16", DTYPES, "Type of the values.")
    define(switch, "mirrored", False, "Add the mirrored training images.")
    define(integer, "batch_size", 16, "Images at a time.", 1)
    define(integer, "held_out_images", 0, "Images that are kept apart, as a test split.", 0)
    define(switch, "skip_unreadable", False, "Leave out unreadable images.")
    define(switch, "memory_map", False, "Decode the images into a file of the cache, not memory.")
    return values


def _config(path: str, found: dict[str, Any]) -> Config:
    """Return a config whose groups `data` and `model` name the images."""
    name = found["name"] or guess_kind(path)
    if name not in NAMES:
        hint = nearest(name, NAMES)
        raise InputError(f"--name {name[:40]!r}: allowed is {', '.join(NAMES)}{hint}")
    base = read_any_config("digits_uvit_dia")
    data = replace(
        base.data,
        name=name,
        path="" if name == "digits" else _absolute(path),
        resize=name in LISTED,
        skip_unreadable=found["skip_unreadable"],
        held_out_images=found["held_out_images"],
        memory_map=found["memory_map"],
        on_device=False,
    )
    if data.memory_map and (name not in LISTED or data.held_out_images):
        raise InputError(
            f"--memory_map: only with {', '.join(LISTED)} and without --held_out_images"
        )
    model = replace(
        base.model, img_size=found["img_size"], patch_size=1, in_chans=found["in_chans"]
    )
    return replace(base, data=data, model=model)


def _absolute(path: str) -> str:
    """Return a path as it holds in any working folder; an id on the Hub as it is."""
    place = user_path(path, "encode")
    return str(place.absolute()) if place.exists() else path


if __name__ == "__main__":
    cli.run_command(main)
