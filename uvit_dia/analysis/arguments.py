"""What an analysis is told on its command line, checked before torch is imported."""

from dataclasses import dataclass
from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.places import shown_usage
from uvit_dia.config.sampling import ALL_SAMPLERS
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import user_path

COMMANDS = {
    "correlation": "Pearson correlation of attention maps between blocks (Fig. 2)",
    "importance": "random-forest importance of earlier attention maps for later ones (Fig. 11)",
    "gates": "what multiplies the channels, by block, channel and noise level",
    "gradients": "gradients of the training loss at each block's output (Fig. 13)",
    "sensitivity": "loss and Frechet distance with the unit taken out of some blocks (Table XV)",
    "neighbours": "the training images nearest to samples: are these copies?",
    "cost": "weights, FLOPs, time and memory of every variant against none (Sec. VI-B1, Table IV)",
}
LOWEST = {"num_images": 2, "seed": 0, "batch_size": 1, "num_rounds": 2, "num_steps": 1}
_INTEGERS = {
    "seed": (0, "Of images, noise and whatever else is drawn."),
    "batch_size": (None, "Images at a time (default: the run's config)."),
    "num_images": (None, "How many images, at least 2."),
    "num_steps": (None, "Steps of the sampler (default: the run's config)."),
    "num_rounds": (20, "How often every variant is timed, at least 2."),
}
_COMMON = ("seed", "batch_size")
_OF_COMMAND = {
    "sensitivity": ("num_images", "num_steps"),
    "neighbours": ("num_images", "num_steps"),
    "cost": ("num_rounds",),
}


@dataclass(frozen=True)
class AnalysisArguments:
    """What an analysis is told; None stands for what the command or the run's config says.

    Attributes:
        command: one of `COMMANDS`.
        checkpoint: a run, a step folder, an exported folder or its id on the Hub.
        output: folder of the results.
        seed: of everything that is drawn.
        batch_size: images at a time.
        num_images: how many images.
        use_ema: whether the averaged weights are used.
        timesteps: noise levels that the images get in turn.
        compare: another run or step folder, of `gradients`.
        sampler: name of the sampler, of `sensitivity` and `neighbours`.
        num_steps: its steps.
        num_rounds: how often every variant is timed, of `cost`.
        data_path: where the training images lie, if not where the run found them.
        allow_other_data: whether other images than those of the training may be used.
    """

    command: str
    checkpoint: Path
    output: Path | None = None
    seed: int = 0
    batch_size: int | None = None
    num_images: int | None = None
    use_ema: bool = True
    timesteps: tuple[int, ...] | None = None
    compare: Path | None = None
    sampler: str | None = None
    num_steps: int | None = None
    num_rounds: int = 20
    data_path: str | None = None
    allow_other_data: bool = False


def read_arguments(argv: list[str], usage: str) -> AnalysisArguments:
    """Read a command line; `--help` prints what the command takes, and exits.

    Args:
        argv: program name, command, flags.
        usage: the text above the flags.

    Raises:
        InputError: if the command is unknown, or a flag is wrong or belongs to another command.
    """
    command = argv[1] if len(argv) > 1 else ""
    if command in ("--help", "-h", "-help"):
        more = "Flags of a command: python -m uvit_dia.analysis COMMAND --help"
        print(shown_usage(f"{usage}\n\n{more}", argv[0]))
        raise SystemExit(0)
    if not command or command.startswith("-"):
        raise InputError(f"the command is missing; the first word is one of {', '.join(COMMANDS)}")
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS)
        raise InputError(
            f"unknown command {command[:40]!r}; allowed is {', '.join(COMMANDS)}{hint}"
        )
    values = _define_flags(command)
    cli.parse_flags(values, [argv[0], *argv[2:]], f"{command}: {COMMANDS[command]}")
    found = {name: values[name].value for name in values}
    return _check(command, found)


def _define_flags(command: str) -> flags.FlagValues:
    """Define the flags that a command takes, and no others: a flag without effect is refused."""
    values = cli.new_flags()
    folder = "A run's folder, a step folder, an exported folder or its id on the Hub."
    flags.DEFINE_string("checkpoint", None, folder, flag_values=values)
    where = "Folder of the results (RUN/analysis)."
    flags.DEFINE_string("output", None, where, flag_values=values)
    for name in (*_COMMON, *_OF_COMMAND.get(command, ("num_images",))):
        default, text = _INTEGERS[name]
        flags.DEFINE_integer(name, default, text, flag_values=values)
    if command != "cost":
        text = "Where the training images lie, if not where the run found them."
        flags.DEFINE_string("data_path", None, text, flag_values=values)
        text = "Use other images than the run was trained on."
        flags.DEFINE_bool("allow_other_data", False, text, flag_values=values)
        flags.DEFINE_bool("use_ema", True, "Use the averaged weights.", flag_values=values)
    if command not in ("cost", "neighbours"):
        text = "Noise levels, such as 100,500,900 (default: spread evenly over all)."
        flags.DEFINE_list("timesteps", None, text, flag_values=values)
    if command == "gradients":
        text = "Another run, such as one without the unit, to set beside it."
        flags.DEFINE_string("compare", None, text, flag_values=values)
    if command in ("sensitivity", "neighbours"):
        text = f"One of {', '.join(ALL_SAMPLERS)} (default: the run's config)."
        flags.DEFINE_string("sampler", None, text, flag_values=values)
    return values


def _check(command: str, found: dict) -> AnalysisArguments:
    """Check the values that need no checkpoint to be checked."""
    if not found["checkpoint"]:
        raise InputError("--checkpoint is missing; it takes a run's folder or a step folder")
    for name, low in LOWEST.items():
        value = found.get(name)
        if value is not None and not low <= value < 2**31:
            raise InputError(f"--{name} {value}: allowed is {low} to {2**31 - 1}")
    sampler = found.get("sampler")
    if sampler is not None and sampler not in ALL_SAMPLERS:
        hint = nearest(sampler, ALL_SAMPLERS)
        raise InputError(
            f"--sampler {sampler!r}: unknown; allowed is {', '.join(ALL_SAMPLERS)}{hint}"
        )
    timesteps = found.get("timesteps")
    known = {
        name: found[name]
        for name in (*_INTEGERS, "use_ema", "sampler", "data_path", "allow_other_data")
        if found.get(name) is not None
    }
    return AnalysisArguments(
        command=command,
        checkpoint=user_path(found["checkpoint"], "--checkpoint"),
        output=_path(found["output"], "--output"),
        compare=_path(found.get("compare"), "--compare"),
        timesteps=None if timesteps is None else _integers(timesteps),
        **known,
    )


def _path(value: str | None, flag: str) -> Path | None:
    return user_path(value, flag) if value else None


def _integers(words: list[str]) -> tuple[int, ...]:
    """Read the noise levels; whether the run has them is checked where the run is known."""
    try:
        levels = tuple(int(word) for word in words)
    except ValueError:
        levels = ()
    if not levels:
        raise InputError(f"--timesteps {','.join(words)!r}: takes integers such as 100,500,900")
    return levels
