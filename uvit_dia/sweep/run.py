"""A sweep from its start to its last word: checks, lock, cells, and where the results lie."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from uvit_dia.runs.folder import RunFolder
from uvit_dia.sweep.cell_job import CellTask
from uvit_dia.sweep.cells import SCRIPTS, Cell
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.folder import FINAL_STATES, compare, read_cell_json, write_sweep_json
from uvit_dia.sweep.launch import Cluster, Progress, make_task, run_cells
from uvit_dia.sweep.local import LocalCluster, import_submitit, remove_jobs_folders
from uvit_dia.sweep.slurm import SlurmCluster, check_slurm
from uvit_dia.sweep.status import read_status, summary
from uvit_dia.system.errors import CommandError, StoppedEarly

MAX_NAMED_FAILURES = 2


class CellsFailed(CommandError):
    """Some cells have no result; the others do."""


def run_sweep(sweep: Sweep, workdir: Path, *, cluster: str, max_parallel: int | None) -> None:
    """Run what is missing of a sweep.

    Args:
        sweep: the sweep.
        workdir: its folder; made if it is not there.
        cluster: "local" or "slurm".
        max_parallel: how many cells run at once; None for one here, and for all on Slurm.

    Raises:
        InputError: if something does not fit; nothing was started.
        StoppedEarly: after a stop signal, with the state of all cells saved.
        CellsFailed: if cells failed; the others have their results.
    """
    import_submitit()
    _let_jobs_import_us()
    if cluster == "slurm":
        check_slurm(sweep.config.slurm)
    folder = None
    if (workdir / "sweep.json").exists():
        folder = _locked(workdir)  # a second sweep here is refused before anything is loaded
    missing = _unfinished(sweep.cells, workdir)
    print(f"{len(sweep.cells) - len(missing)} of {len(sweep.cells)} cells have their result")
    progress = Progress({}, {})
    if missing:
        from uvit_dia.sweep.preflight import check_machine  # torch is imported from here on

        gpus_per_run = sweep.config.slurm.gpus_per_run if cluster == "slurm" else None
        machine = check_machine(sweep, missing, workdir, gpus_per_run=gpus_per_run)
    folder = folder or _locked(workdir)
    compare(workdir, sweep)  # again: another process may have been here before the lock was ours
    write_sweep_json(workdir, sweep)  # also of a finished sweep: its baseline and words may be new
    if missing:
        tasks = [
            make_task(sweep, cell, workdir, extractor_sha256=machine.extractor_sha256[cell.name])
            for cell in missing
        ]
        if cluster == "slurm":
            progress = _run_on_slurm(sweep, tasks, workdir, max_parallel)
        else:
            is_alone = sweep.launch.num_processes == 1
            local = LocalCluster(
                workdir,
                max_parallel=max_parallel or 1,
                num_gpus=machine.num_gpus if is_alone else 0,
            )
            progress = _run(tasks, local, workdir)
    _tell_results(workdir)
    folder.unlock()
    _raise_if_failed(progress)


def _let_jobs_import_us() -> None:
    """Put this package on the path of the processes to come, wherever they are started."""
    paths = [str(SCRIPTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))


def _locked(workdir: Path) -> RunFolder:
    folder = RunFolder(workdir)
    folder.lock()
    return folder


def _unfinished(cells: Iterable[Cell], workdir: Path) -> list[Cell]:
    """Return the cells without a result; a failed one is tried again."""
    return [c for c in cells if read_cell_json(c.folder(workdir))["state"] not in FINAL_STATES]


def _run_on_slurm(
    sweep: Sweep, tasks: list[CellTask], workdir: Path, max_parallel: int | None
) -> Progress:
    """Run cells on Slurm; jobs that a killed sweep has left in the queue are waited for, not queued twice."""
    slurm = SlurmCluster(workdir, sweep.config.slurm, max_parallel=max_parallel)
    adopted = slurm.adopt(tasks)
    others = [task for task in tasks if task not in adopted]
    return _run(others, slurm, workdir, adopted)


def _run(
    tasks: list[CellTask], cluster: Cluster, workdir: Path, adopted: Iterable[CellTask] = ()
) -> Progress:
    """Run cells; what submitit wrote is taken away when no job needs it any more."""
    try:
        progress = run_cells(tasks, cluster, adopted=adopted, say=_say)
    except StoppedEarly:
        remove_jobs_folders(workdir)
        raise
    remove_jobs_folders(workdir)
    return progress


def _say(line: str) -> None:
    print(line, flush=True)


def _tell_results(workdir: Path) -> None:
    print(summary(read_status(workdir)))
    print(f"results:  {workdir}/cells/*/eval.jsonl and metrics.jsonl")
    print(f"report:   python -m uvit_dia.report {shlex.quote(str(workdir))}", flush=True)


def _raise_if_failed(progress: Progress) -> None:
    failed = [name for name, state in progress.states.items() if state not in FINAL_STATES]
    if failed:
        named = [f"{name} ({progress.reasons[name]})" for name in failed[:MAX_NAMED_FAILURES]]
        more = ", ..." if len(failed) > MAX_NAMED_FAILURES else ""
        raise CellsFailed(
            f"{len(failed)} of {len(progress.states)} cells failed: {', '.join(named)}{more}; the same command tries "
            "them again"
        )
