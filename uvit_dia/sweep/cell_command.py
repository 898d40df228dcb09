"""Train and evaluate one cell of a sweep, as far as that is not done yet.

    python -m uvit_dia.sweep cell runs/sweep uvit-b0032-s0

This is what a sweep starts for each cell; it may as well be started by hand, on several machines
that share the sweep's folder. Exit codes: 0 done, 1 failed, 2 wrong input, 3 diverged, 75 stopped
early with its state saved.
"""

from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.places import CONFIGS
from uvit_dia.sweep.cell_work import CellWork
from uvit_dia.sweep.cells import SCRIPTS, Launch
from uvit_dia.sweep.launch import CellsFailed, ending
from uvit_dia.sweep.plan import SweepPlan, read_plan
from uvit_dia.system.errors import CommandError, DivergedError, InputError, StoppedEarly
from uvit_dia.system.signals import STOP_SIGNALS

ERRORS: dict[str, type[CommandError]] = {
    "failed": CellsFailed,
    "diverged": DivergedError,
    "preempted": StoppedEarly,
}


def main(argv: list[str]) -> None:
    """Run the command; see the module's docstring.

    Args:
        argv: the command line, the words `sweep` and `cell` first.
    """
    values = cli.new_flags()
    flags.DEFINE_string(
        "base", None, "Base config, which is code (default: as in sweep.json).", flag_values=values
    )
    flags.DEFINE_string(
        "scripts",
        str(SCRIPTS or ""),
        "Folder of train.py and eval_fid.py (default: those of this project).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "launched",
        False,
        "Stop when the standard input ends, as sweeps want it.",
        flag_values=values,
    )
    words = [word for word in argv[2:4] if not word.startswith("-")]
    cli.parse_flags(values, [argv[0], *argv[2 + len(words) :]], __doc__ or "")
    if len(words) < 2:
        raise InputError("a sweep's folder and the name of a cell: sweep cell DIR NAME")
    plan = read_plan(Path(words[0]))
    cell = plan.cell(words[1])
    scripts = values["scripts"].value
    launch = _launch(plan, values["base"].value, Path(scripts) if scripts else SCRIPTS)
    work = CellWork(plan, cell, launch, is_launched=bool(values["launched"].value))
    state, told = work.run(STOP_SIGNALS)
    if state in ERRORS:
        raise ERRORS[state](f"{cell.name}: {told.get('reason', '')}")
    print(ending(cell.name, told))


def _launch(plan: SweepPlan, base: str | None, scripts: Path | None) -> Launch:
    """Return how the commands of a cell are started.

    Raises:
        InputError: if `sweep.json`, which is data, names a file outside this project as the base
            config, which is code.
    """
    config = plan.checked_config()
    if base is None:
        base = config.base
        file = Path(base.partition(":")[0])
        file = file if file.is_file() else CONFIGS.parent / file
        if not file.resolve().is_relative_to(CONFIGS) or not file.is_file():
            raise InputError(
                f"{plan.folder / 'sweep.json'}: base = {base!r:.100} is no config of this project; "
                "if you trust "
                "its code, give it as --base"
            )
        base = base.replace(base.partition(":")[0], str(file), 1)
    return Launch(base, config.num_processes, config.threads_per_cell, scripts)
