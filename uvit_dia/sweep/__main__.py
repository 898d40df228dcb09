"""Run a sweep: a grid over variants, batch sizes and seeds, each cell an ordinary run of its own.

    python -m uvit_dia.sweep --config configs/sweeps/digits_batch_size.py --workdir runs/sweep \
        --max_parallel 2

    python -m uvit_dia.sweep cell runs/sweep NAME

Run the same command again to resume an interrupted sweep: finished cells are skipped, broken ones
resume, diverged ones are results. --measure finds out, in minutes, how many cells at once this
machine holds best; --dry_run shows the runs and what they take, with --commands also their
commands; --status shows how far they are. The second command works on one cell alone. Exit codes: 0
all cells have a result, 1 some cells failed, 2 wrong input, 75 stopped early with all state saved.
"""

import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from uvit_dia import cli
from uvit_dia.config.flag import config_file, define_config_flag, load_config, overridden_keys
from uvit_dia.config.places import SWEEPS
from uvit_dia.sweep import cell_command
from uvit_dia.sweep.cells import SCRIPTS, pasteable
from uvit_dia.sweep.config import Sweep, make_sweep
from uvit_dia.sweep.folder import FINAL_STATES, make_plan
from uvit_dia.sweep.schema import sweep_rule_of
from uvit_dia.sweep.speed import measure_speed
from uvit_dia.sweep.status import plan_table, read_status, recommendation, status_table
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path

WHAT_IS_HELD = (  # keys of a sweep config that `held_constant` puts in words
    "budget",
    "lr_rule",
    "reference_batch_size",
    "ema_",
    "overrides.optimizer",
    "overrides.ema",
)
CLUSTERS = ("local", "slurm")
WATCH_SECONDS = 2.0
WATCHED_TO_THE_END = (*FINAL_STATES, "failed")
MORE_ON_A_PLAN = "(--commands shows the command lines of each run)"
CLEAR_SCREEN = "\x1b[H\x1b[2J"


def main(argv: list[str], *, scripts: Path | None = SCRIPTS) -> None:
    """Run the command; see the module's docstring.

    Args:
        argv: the command line, program name first.
        scripts: the folder of train.py and eval_fid.py; None for the package's own commands.
    """
    if argv[1:2] == ["cell"]:
        cell_command.main(argv)
        return
    values = _parse(argv)
    if not values["workdir"].value:
        raise InputError("--workdir is missing; for example --workdir runs/sweep")
    workdir = user_path(values["workdir"].value, "--workdir")
    if values["status"].value or values["watch"].value:
        show_status(workdir, is_watched=bool(values["watch"].value))
        return
    cluster, max_parallel = values["cluster"].value, values["max_parallel"].value
    if cluster not in CLUSTERS:
        raise InputError(f"--cluster {cluster!r}: allowed is {' or '.join(CLUSTERS)}")
    if max_parallel is not None and max_parallel < 1:
        raise InputError(f"--max_parallel {max_parallel}: allowed is 1 or more")
    config, path = _read_config(values)
    sweep = make_sweep(config, path, scripts)
    make_plan(sweep, workdir)  # refuses a folder of another sweep
    if values["measure"].value:
        print(recommendation(measure_speed(sweep)))
        return
    if values["dry_run"].value:
        is_local = cluster == "local"
        parallel = max_parallel or (1 if is_local else len(sweep.cells))
        print(plan_table(sweep, parallel, is_local=is_local))
        print(commands(sweep, workdir) if values["commands"].value else MORE_ON_A_PLAN)
        return

    from uvit_dia.sweep.run import run_sweep

    run_sweep(sweep, workdir, cluster=cluster, max_parallel=max_parallel)


def _parse(argv: list[str]) -> flags.FlagValues:
    values = cli.new_flags()
    define_config_flag(values, sweep_rule_of, group=None, folder=SWEEPS)
    flags.DEFINE_string("workdir", "", "Folder of the sweep.", flag_values=values)
    flags.DEFINE_string("cluster", "local", "Where cells run: local or slurm.", flag_values=values)
    flags.DEFINE_integer(
        "max_parallel",
        None,
        "Cells at once; it does not change their results (default: 1, or all on Slurm).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run", False, "Show the runs and their cost, write nothing.", flag_values=values
    )
    flags.DEFINE_bool(
        "measure",
        False,
        "Run cells for seconds to see how many at once are best here; --dry_run tells it then.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "commands", False, "With --dry_run: show the commands of each run too.", flag_values=values
    )
    flags.DEFINE_bool("status", False, "Show what has become of the cells.", flag_values=values)
    flags.DEFINE_bool("watch", False, "Show it again and again.", flag_values=values)
    cli.parse_flags(values, argv, __doc__ or "")
    return values


def _read_config(values: flags.FlagValues) -> tuple[ConfigDict, Path]:
    """Return the sweep config of a parsed command line, and its file."""
    if values["config"].value is None:
        raise InputError(
            "--config is missing; for example --config configs/sweeps/digits_batch_size.py"
        )
    config = load_config(values)
    changed = overridden_keys(values)
    if "held_constant" not in changed and any(key.startswith(WHAT_IS_HELD) for key in changed):
        config.held_constant = ""  # the file's words are about the file's rules
    return config, Path(config_file(values))


# ---------------------------------------------------------------- looking


def commands(sweep: Sweep, workdir: Path) -> str:
    """Return the command lines of all runs of a sweep, which can be started by hand."""
    lines = ["", "Each run can be started by hand, from this folder:"]
    environment = sweep.launch.environment()
    for cell in sweep.cells:
        train = cell.train_command(sweep.launch, workdir)
        evaluate = cell.eval_command(sweep.launch, workdir, sweep.config.eval)
        lines += [pasteable(train, environment), pasteable(evaluate, environment)]
    return "\n".join(lines)


def show_status(workdir: Path, *, is_watched: bool) -> None:
    """Print what has become of the cells, once, or until all have ended or failed."""
    while True:
        cells = read_status(workdir)
        if is_watched and sys.stdout.isatty():
            print(CLEAR_SCREEN, end="")
        print(status_table(cells), flush=True)
        if not is_watched or all(cell.state in WATCHED_TO_THE_END for cell in cells):
            return
        time.sleep(WATCH_SECONDS)


if __name__ == "__main__":
    cli.run_command(main)
