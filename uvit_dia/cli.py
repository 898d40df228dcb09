"""Command lines: flags, the config flag with its overrides, and one-line errors with exit codes.

Flags are absl's, on a private `FlagValues`, so that the scripts can be imported side by side.
Nothing here imports torch: `--help` and mistakes answer at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from uvit_dia.config.checks import make_config
from uvit_dia.config.files import run_config_file
from uvit_dia.config.overrides import RuleOf, apply_overrides, split_overrides
from uvit_dia.config.schema import SAMPLERS, Config, rule_of
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


def new_flags() -> flags.FlagValues:
    """Return an empty set of flags that knows --help."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


class _ConfigFlag(flags.Flag):
    """`--config FILE`, and what the command line overrides in it.

    Args:
        rule_of: finds the rule of a dotted key that may be overridden.

    Attributes:
        overrides: texts by dotted key, known once the command line is parsed.
    """

    def __init__(self, rule_of: RuleOf) -> None:
        super().__init__(
            parser=flags.ArgumentParser(),
            serializer=flags.ArgumentSerializer(),
            name="config",
            default=None,
            help_string="Config file; any of its keys is changed by --config.group.key=value.",
        )
        self.rule_of = rule_of
        self.overrides: dict[str, str] = {}


def define_config_flag(values: flags.FlagValues, rule_of: RuleOf = rule_of) -> None:
    """Define `--config FILE` and its overrides `--config.group.key=value`.

    Args:
        values: where the flag is defined.
        rule_of: finds the rule of a dotted key; that of a run's config by default.
    """
    flags.DEFINE_flag(_ConfigFlag(rule_of), values)


def parse_flags(values: flags.FlagValues, argv: Sequence[str], usage: str) -> None:
    """Parse a command line, or print the help and exit.

    Args:
        values: the defined flags.
        argv: the command line, program name first.
        usage: the text above the list of flags.

    Raises:
        InputError: for an unknown flag, a wrong value or a stray word.
    """
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(f"{usage}\n\nFlags:\n{_flag_help(values)}")
        raise SystemExit(0)
    try:
        words = values.read_flags_from_files(list(argv), force_gnu=False)  # of --flagfile
        if "config" in values:
            flag = _config_flag(values)
            words, flag.overrides = split_overrides(words, flag.rule_of)
        rest = values(words)
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


def _config_flag(values: flags.FlagValues) -> _ConfigFlag:
    flag = values["config"]
    assert isinstance(flag, _ConfigFlag)
    return flag


def _flag_help(values: flags.FlagValues) -> str:
    lines = []
    for name in sorted(n for n in values if n != "h"):
        flag = values[name]
        default = "" if flag.default in (None, "", False) else f" (default: {flag.default})"
        lines.append(f"  --{name:<22} {flag.help}{default}")
    return "\n".join(lines)


def config_file(values: flags.FlagValues) -> str:
    """Return the file of a parsed command line's config, without the argument after its colon."""
    return str(values["config"].value).partition(":")[0]


def overridden_keys(values: flags.FlagValues) -> list[str]:
    """Return the keys of the config that a parsed command line changes."""
    return list(_config_flag(values).overrides)


def load_config(values: flags.FlagValues) -> ConfigDict:
    """Run the config file of a parsed command line; return what it makes, changed by the overrides.

    Raises:
        InputError: if --config is missing or its file cannot be run.
    """
    flag = _config_flag(values)
    if flag.value is None:
        raise InputError("--config is missing; for example --config configs/digits_uvit_dia.py")
    try:
        config = run_config_file(flag.value)
        apply_overrides(config, flag.overrides, flag.rule_of)
        config.to_dict()  # computes the values that refer to others
    except InputError:
        raise
    except SyntaxError as error:
        place = error.filename or flag.value  # the config, or a module that it imports
        line = "" if error.lineno is None else f", line {error.lineno}"
        raise InputError(f"--config: {place}{line}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # raised by the user's config file, which is code
        text = _clip(error, 100)
        if not isinstance(error, OSError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise InputError(f"--config: cannot use {flag.value or 'an empty path'}: {text}") from error
    return config


def read_config(values: flags.FlagValues) -> Config:
    """Return the checked config of a parsed command line.

    Raises:
        InputError: if --config is missing, its file cannot be run, or its content is not allowed.
    """
    return make_config(load_config(values).to_dict())


def _clip(message: object, length: int = 140) -> str:
    """Put a message of others on one line that is not too long."""
    text = " ".join(str(message).split())
    return text if len(text) <= length else text[: length - 3] + "..."


@dataclass(frozen=True)
class SamplingArguments:
    """What sampling and evaluation are told on the command line; None stands for what the run's config says.

    Attributes:
        checkpoint: a run or a step folder.
        num_images: how many images.
        sampler: name of the sampler.
        num_steps: its steps.
        seed: of the images.
        batch_size: images at a time.
        use_ema: whether the averaged weights are used.
    """

    checkpoint: Path
    num_images: int | None
    sampler: str | None
    num_steps: int | None
    seed: int | None
    batch_size: int | None
    use_ema: bool


def define_sampling_flags(values: flags.FlagValues) -> None:
    """Define the flags that sample.py and eval_fid.py share."""
    flags.DEFINE_string("checkpoint", None, "A run's folder or a step folder.", flag_values=values)
    flags.DEFINE_integer("num_images", None, "How many images.", flag_values=values)
    flags.DEFINE_string("sampler", None, f"One of {', '.join(SAMPLERS)}.", flag_values=values)
    flags.DEFINE_integer("num_steps", None, "Steps of the sampler.", flag_values=values)
    flags.DEFINE_integer("seed", None, "Seed of the images.", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "Images at a time.", flag_values=values)
    flags.DEFINE_bool("use_ema", True, "Use the averaged weights.", flag_values=values)


def sampling_arguments(
    values: flags.FlagValues, *, default_num_images: int | None
) -> SamplingArguments:
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
    num_images = values["num_images"].value
    return SamplingArguments(
        checkpoint=Path(values["checkpoint"].value),
        num_images=default_num_images if num_images is None else num_images,
        sampler=sampler,
        num_steps=values["num_steps"].value,
        seed=values["seed"].value,
        batch_size=values["batch_size"].value,
        use_ema=bool(values["use_ema"].value),
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
