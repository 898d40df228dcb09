"""Command lines: flags, and the config flag with its overrides.

Flags are absl's and ml_collections', on a private `FlagValues`, so that the scripts can be imported side by side.
Nothing here imports torch: `--help` and mistakes answer at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from uvit_dia.config.checks import check_config
from uvit_dia.config.files import flatten
from uvit_dia.config.schema import SAMPLERS, SCHEMA
from uvit_dia.system.commands import run_command  # noqa: F401, the scripts call it from here
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.messages import clip


def new_flags() -> flags.FlagValues:
    """Return an empty set of flags that knows --help."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def define_config_flag(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define `--config FILE` and its overrides `--config.group.key=value`, which are looked for in argv.

    Raises:
        InputError: if argv names a --flagfile that cannot be read.
    """
    logging.set_verbosity(logging.ERROR)  # a get_config() without return gets one line, from us
    try:
        config_flags.DEFINE_config_file(
            "config",
            None,
            "Config file; any of its keys is changed by --config.group.key=value.",
            lock_config=True,
            flag_values=values,
            sys_argv=list(argv),
        )
    except flags.Error as error:
        raise InputError(clip(error)) from error


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
        rest = values(list(argv))
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, [n for n in values if n != "h"])
        raise InputError(f"unknown flag --{clip(error.flagname, 80)}{hint}") from error
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(_config_error(error, argv)) from error
    except SyntaxError as error:
        place = error.filename or _config_file(argv)  # the config, or a module that it imports
        line = "" if error.lineno is None else f", line {error.lineno}"
        raise InputError(f"--config: {place}{line}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # raised by the user's config file, which is code
        raise InputError(_config_file_error(error, argv)) from error
    if len(rest) > 1:
        raise InputError(
            f"unexpected word {clip(rest[1], 80)!r}; every argument is a flag, see --help"
        )


def _flag_help(values: flags.FlagValues) -> str:
    lines = []
    for name in sorted(n for n in values if n != "h"):
        flag = values[name]
        default = "" if flag.default in (None, "", False) else f" (default: {flag.default})"
        lines.append(f"  --{name:<22} {flag.help}{default}")
    return "\n".join(lines)


def _config_error(error: Exception, argv: Sequence[str]) -> str:
    """Turn what absl and ml_collections raise for an unknown key or a wrong value into one line."""
    if "Error whilst parsing config file" in str(error) or isinstance(error, OSError):
        return _config_file_error(error, argv)
    if isinstance(error, AttributeError | KeyError | TypeError):
        unknown = _unknown_key(argv)
        if unknown is None:  # no key of the command line: the file's own code
            return _config_file_error(error, argv)
        return f"unknown config key {clip(unknown, 80)}{nearest(unknown, flatten(SCHEMA))}"
    if isinstance(error, ValueError):  # what absl raises itself is none
        return f"a --config.KEY=VALUE is malformed: {clip(error)}"
    return clip(error) or type(error).__name__


def _unknown_key(argv: Sequence[str]) -> str | None:
    """Return the first key among the overrides that no config has."""
    known = flatten(SCHEMA)
    for word in argv[1:]:
        flag = word.partition("=")[0].lstrip("-")
        if word.startswith("-") and flag.removeprefix("no").startswith("config."):
            key = flag.removeprefix("no").removeprefix("config.")
            if key not in known and not any(name.startswith(f"{key}.") for name in known):
                return key
    return None


def _config_file_error(error: BaseException, argv: Sequence[str]) -> str:
    """Say in one line what running the config file raised."""
    cause = (
        str(error).strip().splitlines()[-1:]
    )  # ml_collections puts whole tracebacks into messages
    text = clip(cause[0] if cause else "", 100)
    if not isinstance(error, flags.Error | OSError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"--config: cannot use {_config_file(argv) or 'an empty path'}: {text}"


def _config_file(argv: Sequence[str]) -> str:
    """Return what the command line gives as --config, for messages."""
    for index, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag in ("--config", "-config"):
            return value or " ".join(argv[index + 1 : index + 2])
    return "the config"


def read_config(values: flags.FlagValues) -> ConfigDict:
    """Return the checked, locked config of a parsed command line.

    Raises:
        InputError: if --config is missing, its file cannot be run, or its content is not allowed.
    """
    flag = values["config"]
    config = flag.value
    if not flag.present:
        raise InputError("--config is missing; for example --config configs/digits_uvit_dia.py")
    file = config_flags.get_config_filename(flag)
    error = getattr(config, "_error", None)  # ml_collections keeps an OSError back until first use
    if isinstance(error, OSError):
        raise InputError(_config_file_error(error, ["--config", file])) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config: get_config() of {file} returned {type(config).__name__}, not a ConfigDict"
        )
    try:
        check_config(config)
    except InputError:
        raise
    except Exception as error:  # values that refer to others are computed here, by the user's code
        raise InputError(_config_file_error(error, ["--config", file])) from error
    return config


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
            f"--sampler {clip(sampler, 40)!r}: unknown; allowed is {', '.join(SAMPLERS)}{hint}"
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
