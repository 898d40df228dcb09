"""Command lines: flags, their help, and one-line errors with exit codes.

Flags are absl's, on a private `FlagValues`, so that the scripts can be imported side by side.
Nothing here imports torch: `--help` and mistakes answer at once.
"""

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from uvit_dia.config.fields import shown
from uvit_dia.config.flag import config_help, take_overrides
from uvit_dia.config.own_units import import_as_parent, import_modules
from uvit_dia.config.schema import SAMPLERS, rule_of
from uvit_dia.system.errors import (
    EXIT_STOPPED_EARLY,
    CommandError,
    InputError,
    MemoryShortageError,
    StorageError,
    nearest,
)
from uvit_dia.system.memory import is_out_of_memory

MAX_LINE = 200  # characters of a message, where shorter paths can make it fit
MIN_SHORTENED = 40  # characters of a path that are always left
ELLIPSIS = "..."
_RUNS_OWN = " (default: the run's config)"


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
        print(f"{usage}\n\nFlags:\n{_flag_help(values)}\n{config_help(values, argv)}")
        raise SystemExit(0)
    try:
        words = values.read_flags_from_files(list(argv), force_gnu=False)  # of --flagfile
        rest = values(take_overrides(values, words))
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, [n for n in values if n != "h"])
        raise InputError(f"unknown flag --{_clip(error.flagname, 80)}{hint}") from error
    except InputError:
        raise
    except (flags.Error, ValueError) as error:
        raise InputError(_clip(error)) from error
    if len(rest) > 1:
        raise InputError(
            f"unexpected word {_clip(rest[1], 80)!r}; every argument is a flag, see --help"
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


def _clip(message: object, length: int = 140) -> str:
    """Put a message of others on one line that is not too long."""
    text = " ".join(str(message).split())
    return text if len(text) <= length else text[: length - 3] + "..."


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


def define_sampling_flags(values: flags.FlagValues, *, num_images: int | None = None) -> None:
    """Define the flags that sample.py and eval_fid.py share.

    Args:
        values: where the flags are defined.
        num_images: how many images are sampled by default; None for what the run's config says.
    """
    own = "" if num_images else _RUNS_OWN
    flags.DEFINE_integer("num_images", num_images, f"How many images{own}", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "A run's folder or a step folder.", flag_values=values)
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
    sampler = values["sampler"].value
    if sampler is not None and sampler not in SAMPLERS:
        hint = nearest(sampler, SAMPLERS)
        raise InputError(
            f"--sampler {_clip(sampler, 40)!r}: unknown; allowed is {', '.join(SAMPLERS)}{hint}"
        )
    lowest = {"num_images": 1, "num_steps": 1, "seed": 0, "batch_size": 1}
    for name, low in lowest.items():
        value = values[name].value
        if value is not None and not low <= value < 2**31:
            raise InputError(f"--{name} {value}: allowed is {low} to {2**31 - 1}")
    for name in ("eta", "variance_type", "clip_sample"):
        value, rule = values[name].value, rule_of(f"sample.{name}")
        if value is not None and not rule.fits(value):
            raise InputError(f"--{name} {shown(value, str)}: allowed is {rule.allowed}")
    return SamplingArguments(
        checkpoint=Path(values["checkpoint"].value),
        num_images=values["num_images"].value,
        sampler=sampler,
        num_steps=values["num_steps"].value,
        seed=values["seed"].value,
        batch_size=values["batch_size"].value,
        use_ema=bool(values["use_ema"].value),
        eta=values["eta"].value,
        variance_type=values["variance_type"].value,
        clip_sample=values["clip_sample"].value,
    )


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run a command's main function and exit: one line on stderr and its exit code for every foreseen error."""
    try:
        main(sys.argv)
    except CommandError as error:
        if isinstance(error, InputError) and not _is_first_process():
            sys.exit(error.exit_code)  # wrong input is seen, and told, by all processes alike
        _exit_with_line(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        _exit_with_line("interrupted; the same command goes on where it can", EXIT_STOPPED_EARLY)
    except OSError as error:
        if error.errno not in (28, 122):  # ENOSPC, EDQUOT
            raise
        _exit_with_line(
            f"no space left while writing {error.filename or ''}", StorageError.exit_code
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _exit_with_line(f"out of memory: {_clip(error)}", MemoryShortageError.exit_code)
    sys.exit(0)


def _exit_with_line(message: str, code: int) -> None:
    place = "" if _is_first_process() else f" [rank {os.environ['RANK']}]"
    line = shorten_paths(f"{_command_name()}{place}: {message}")
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
    print(shown, file=sys.stderr, flush=True)  # a name of others must not steer the terminal
    sys.exit(code)


def _command_name() -> str:
    script = Path(sys.argv[0])  # of python -m uvit_dia.sweep: .../uvit_dia/sweep/__main__.py
    return f"{script.parent.name}.py" if script.stem == "__main__" else script.name


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def shorten_paths(line: str, length: int = MAX_LINE) -> str:
    """Cut the middles out of the longest paths until a line fits, or no long path is left; addresses stay whole."""
    words = line.split(" ")
    paths = [
        index
        for index, word in enumerate(words)
        if len(word) > MIN_SHORTENED and ("/" in word or len(word) > length) and "://" not in word
    ]
    for index in sorted(paths, key=lambda index: len(words[index]), reverse=True):
        surplus = len(" ".join(words)) - length
        if surplus <= 0:
            break
        word = words[index]
        kept = max(MIN_SHORTENED, len(word) - surplus) - len(ELLIPSIS)
        words[index] = word[: kept // 2] + ELLIPSIS + word[len(word) - (kept - kept // 2) :]
    return " ".join(words)
