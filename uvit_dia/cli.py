"""Command lines: flags and their help.

Flags are absl's, on a private `FlagValues`, so that the scripts can be imported side by side.
Nothing here imports torch: `--help` and mistakes answer at once.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from absl import flags

from uvit_dia.config.fields import shown
from uvit_dia.config.flag import config_help, define_config_flag, read_config, take_overrides
from uvit_dia.config.guidance_interval import one_word_interval, parse_interval
from uvit_dia.config.own_units import import_as_parent, import_modules
from uvit_dia.config.places import shown_usage
from uvit_dia.config.sampling import ALL_SAMPLERS
from uvit_dia.config.schema import Config, rule_of
from uvit_dia.system.commands import run_command  # noqa: F401, the scripts call it from here
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import user_path
from uvit_dia.system.messages import clip

_CHECKPOINT = (
    "A run's folder, a step folder, an exported folder, its id on the Hugging Face Hub, or, with "
    "--config, a file of the U-ViT authors' weights."
)
_RUNS_OWN = " (default: the run's config)"
_LABELS_OWN = " (default: all for samples, as often as in the training set for an evaluation)"


def new_flags() -> flags.FlagValues:
    """Return a set of the flags that every command has."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    flags.DEFINE_list(
        "import",
        [],
        "Modules with units of your own to import: code you trust.",
        flag_values=values,
    )
    return values


def parse_flags(values: flags.FlagValues, argv: Sequence[str], usage: str) -> None:
    """Parse a command line, or print the help and exit; import what the user said.

    Args:
        values: the defined flags.
        argv: the command line, program name first.
        usage: the text above the list of flags.

    Raises:
        InputError: for an unknown flag, a wrong value or a stray word, or a failed --import.
    """
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        usage = shown_usage(usage, argv[0])
        print(f"{usage}\n\nFlags:\n{_flag_help(values)}\n{config_help(values, argv)}")
        raise SystemExit(0)
    try:
        words = values.read_flags_from_files(
            one_word_interval(argv), force_gnu=False
        )  # of --flagfile
        rest = values(take_overrides(values, words))
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, [n for n in values if n != "h"])
        raise InputError(f"unknown flag --{clip(error.flagname, 80)}{hint}") from error
    except InputError:
        raise
    except (flags.Error, ValueError) as error:
        raise InputError(clip(error)) from error
    if len(rest) > 1:
        raise InputError(
            f"unexpected word {clip(rest[1], 80)!r}; every argument is a flag, see --help"
        )
    import_as_parent()
    import_modules(values["import"].value or [])


def _flag_help(values: flags.FlagValues) -> str:
    lines = []
    for name in sorted(n for n in values if n != "h"):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        text = flag.help if name == "help" else f"{flag.help}{default}"
        lines.append(textwrap.fill(f"  --{name:<24} {text}", 100, subsequent_indent=" " * 29))
    return "\n".join(lines)


@dataclass(frozen=True)
class SamplingArguments:
    """What sampling and evaluation are told on the command line.

    None stands for what the run's config says in its group `sample`, or, for the number of images,
    `eval`.

    Attributes:
        checkpoint: a run or a step folder.
        num_images: how many images.
        sampler: name of the sampler.
        num_steps: its steps.
        seed: of the images.
        batch_size: images at a time.
        use_ema: whether the averaged weights are used.
        eta: share of fresh noise in ddim, from 0 to 1.
        variance_type: of ddpm.
        clip_sample: whether ddpm and ddim clip their estimate of x_0.
        class_labels: of a conditional network's images: a class, several with commas, or "all", in
            turn; by name or number.
        guidance_scale: of classifier-free guidance.
        guidance_interval: lowest and highest timestep with guidance, such as "100,800".
        config: of a file of weights, which holds none.
    """

    checkpoint: Path
    num_images: int | None
    sampler: str | None
    num_steps: int | None
    seed: int | None
    batch_size: int | None
    use_ema: bool
    eta: float | None = None
    variance_type: str | None = None
    clip_sample: bool | None = None
    class_labels: str | int | Sequence[int | str] | None = None
    guidance_scale: float | None = None
    guidance_interval: str | Sequence[int] | None = None
    config: Config | None = None


def define_sampling_flags(values: flags.FlagValues, *, num_images: int | None = None) -> None:
    """Define the flags that sample.py and eval_fid.py share.

    Args:
        values: where the flags are defined.
        num_images: how many images are sampled by default; None for what the run's config says.
    """
    own = "" if num_images else _RUNS_OWN
    flags.DEFINE_integer("num_images", num_images, f"How many images{own}", flag_values=values)
    flags.DEFINE_string("checkpoint", None, _CHECKPOINT, flag_values=values)
    define_config_flag(values, group=None)
    flags.DEFINE_bool("use_ema", True, "Use the averaged weights.", flag_values=values)
    integers = {
        "num_steps": "Steps of the sampler",
        "seed": "Seed of the images",
        "batch_size": "Images at a time",
    }
    for name, meaning in integers.items():
        flags.DEFINE_integer(name, None, f"{meaning}{_RUNS_OWN}", flag_values=values)
    for name in ("sampler", "variance_type"):
        flags.DEFINE_string(name, None, _sampler_help(name), flag_values=values)
    flags.DEFINE_float("eta", None, _sampler_help("eta"), flag_values=values)
    flags.DEFINE_bool("clip_sample", None, _sampler_help("clip_sample"), flag_values=values)
    flags.DEFINE_float("guidance_scale", None, _sampler_help("guidance_scale"), flag_values=values)
    texts = {
        "guidance_interval": f"Lowest and highest timestep with guidance, as LOW,HIGH{_RUNS_OWN}",
        "class_labels": "Classes of a conditional network's images, in turn: names or numbers with "
        f"commas, or all{_LABELS_OWN}",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=values)


def _sampler_help(name: str) -> str:
    rule = rule_of(f"sample.{name}")
    return f"{rule.meaning}: {rule.allowed}{_RUNS_OWN}"


def sampling_arguments(values: flags.FlagValues) -> SamplingArguments:
    """Check the shared flags.

    Raises:
        InputError: naming the flag, what was found and what is allowed.
    """
    if not values["checkpoint"].value:
        raise InputError("--checkpoint is missing; it takes a run's folder or a step folder")
    given: dict[str, Any] = {
        field.name: values[field.name].value for field in fields(SamplingArguments)
    }
    given["checkpoint"] = user_path(given["checkpoint"], "--checkpoint")
    given["config"] = None if values["config"].value is None else read_config(values)
    return check_sampling(SamplingArguments(**given))


def check_sampling(arguments: SamplingArguments) -> SamplingArguments:
    """Check what sampling is told, by flags or from Python; return it.

    Raises:
        InputError: naming the flag, what was found and what is allowed.
    """
    sampler = arguments.sampler
    if sampler is not None and sampler not in ALL_SAMPLERS:
        hint = nearest(str(sampler), ALL_SAMPLERS)
        raise InputError(
            f"--sampler {clip(str(sampler), 40)!r}: unknown; "
            f"allowed is {', '.join(ALL_SAMPLERS)}{hint}"
        )
    lowest = {"num_images": 1, "num_steps": 1, "seed": 0, "batch_size": 1}
    for name, low in lowest.items():
        value = getattr(arguments, name)
        if value is not None and (type(value) is not int or not low <= value < 2**31):
            raise InputError(f"--{name} {value}: allowed is {low} to {2**31 - 1}")
    for name in ("eta", "variance_type", "clip_sample", "guidance_scale"):
        value, rule = getattr(arguments, name), rule_of(f"sample.{name}")
        if value is not None and not rule.fits(value):
            raise InputError(f"--{name} {shown(value, str)}: allowed is {rule.allowed}")
    if arguments.guidance_interval is not None:
        parse_interval(arguments.guidance_interval)
    return arguments
