"""A sweep from its start to its last word: checks, lock, cells, and where the results lie."""

import shlex
from dataclasses import replace
from pathlib import Path

from uvit_dia.runs.folder import RunFolder
from uvit_dia.sweep.cell_files import read_cell_files
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.choice import has_result
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.folder import make_plan, write_plan
from uvit_dia.sweep.launch import CellRunner, raise_if_failed
from uvit_dia.sweep.plan import SweepPlan
from uvit_dia.sweep.pool import LocalPool
from uvit_dia.sweep.status import read_status, summary
from uvit_dia.system.records import Record


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
    if cluster == "slurm":
        from uvit_dia.sweep.slurm_commands import check_slurm

        check_slurm(sweep.config.slurm)
    folder = None
    if (workdir / "sweep.json").exists():
        folder = _locked(workdir)  # a second sweep here is refused before anything is loaded
    missing = _unfinished(make_plan(sweep, workdir))
    print(f"{len(sweep.cells) - len(missing)} of {len(sweep.cells)} cells have their result")
    machine = None
    if missing:
        from uvit_dia.sweep.preflight import check_machine  # torch is imported from here on

        gpus_per_run = sweep.config.slurm.gpus_per_run if cluster == "slurm" else None
        machine = check_machine(sweep, missing, workdir, gpus_per_run=gpus_per_run)
    folder = folder or _locked(workdir)
    plan = make_plan(sweep, workdir)  # again: another process may have been here before the lock
    if machine is not None:
        plan = replace(plan, extractors={**plan.extractors, **machine.extractor_sha256})
    write_plan(plan)  # also of a finished sweep: its baseline and words may be new
    missing = _unfinished(plan)  # again: jobs of a killed sweep may have ended meanwhile
    ended: dict[str, Record] = {}
    if machine is not None and cluster == "slurm":
        ended = _run_on_slurm(sweep, missing, workdir, max_parallel)
    elif machine is not None:
        is_alone = sweep.launch.num_processes == 1
        num_gpus = machine.num_gpus if is_alone else 0
        parallel = max_parallel or 1
        pool = LocalPool(workdir, sweep.launch, max_parallel=parallel, num_gpus=num_gpus)
        ended = CellRunner(workdir, pool, _say).run(missing)
    _tell_results(workdir)
    folder.unlock()
    raise_if_failed(ended)


def _locked(workdir: Path) -> RunFolder:
    folder = RunFolder(workdir)
    folder.lock()
    return folder


def _unfinished(plan: SweepPlan) -> list[Cell]:
    """Return the cells without a result; a failed one is tried again."""
    return [
        cell
        for cell in plan.run_order
        if not has_result(plan, read_cell_files(cell, cell.folder(plan.folder), log_bytes=0))
    ]


def _run_on_slurm(
    sweep: Sweep, cells: list[Cell], workdir: Path, max_parallel: int | None
) -> dict[str, Record]:
    """Run cells on Slurm.

    Jobs that a killed sweep has left in the queue are waited for, not queued twice.
    """
    from uvit_dia.sweep.slurm import SlurmCluster

    with SlurmCluster(workdir, sweep.launch, sweep.config.slurm, max_parallel) as slurm:
        adopted = slurm.adopt(cells)
        others = [cell for cell in cells if cell not in adopted]
        return CellRunner(workdir, slurm, _say).run(others, adopted)


def _say(line: str) -> None:
    print(line, flush=True)


def _tell_results(workdir: Path) -> None:
    print(summary(read_status(workdir)))
    print(f"results:  {workdir}/cells/*/eval.jsonl and metrics.jsonl")
    print(f"report:   python -m uvit_dia.report {shlex.quote(str(workdir))}", flush=True)
