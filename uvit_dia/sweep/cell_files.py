"""The files in a cell's folder as they lie there, whoever wrote them and however far they are.

::

    cell.json        what the launcher says of the cell: state, reason, the evaluation of a finished
    cell config.json, env.json, status.json, metrics.jsonl, samples/, checkpoints/    of the run, by
    train.py eval.jsonl       its evaluations, by eval_fid.py

Any of them may be missing, cut or foreign. What is wrong with one is told beside the numbers of the
others.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.plan import MAX_INT
from uvit_dia.system.records import JsonFile, JsonLines, Record, read_json, read_json_lines

SAMPLE_NAME = re.compile(r"step_(\d{1,15})\.png")
EVALUATED_WEIGHTS = "ema.safetensors"


@dataclass(frozen=True)
class CellFiles:
    """What lies in the folder of a cell.

    Attributes:
        cell: the cell, as planned.
        folder: where its files lie.
        told: `cell.json`, or {}.
        status: `status.json`, or {}.
        config: `config.json`, or {}.
        env: `env.json`, or {}.
        log: the lines of `metrics.jsonl` that hold a loss, by step.
        nonfinite: its lines about a non-finite loss or gradient, by step; the last one ended the
            training.
        evaluations: the lines of `eval.jsonl`, in their order.
        sample: the newest grid of samples, or None.
        damage: a sentence for every file that could not be read as a whole.
    """

    cell: Cell
    folder: Path
    told: Record
    status: Record
    config: Record
    env: Record
    log: tuple[Record, ...]
    nonfinite: tuple[Record, ...]
    evaluations: tuple[Record, ...]
    sample: Path | None
    damage: tuple[str, ...]

    @property
    def is_trained(self) -> bool:
        """Whether the run says that it did its last step."""
        status = self.status
        return status.get("state") == "done" and status.get("step") == self.cell.num_steps


def read_cell_files(cell: Cell, folder: Path, *, log_bytes: int | None = None) -> CellFiles:
    """Read the folder of a cell; what is missing or damaged is left empty, never an error.

    Args:
        cell: the cell, as planned.
        folder: of its run.
        log_bytes: read only so much of the end of `metrics.jsonl`; None for all of it.
    """
    files: dict[str, JsonFile] = {
        name: read_json(folder / f"{name}.json") for name in ("cell", "status", "config", "env")
    }
    log = read_json_lines(folder / "metrics.jsonl", last_bytes=log_bytes)
    evaluations = read_json_lines(folder / "eval.jsonl")
    problems = {
        "metrics.jsonl": log.summary,
        **{f"{name}.json": file.problem for name, file in files.items()},
        "eval.jsonl": evaluations.summary,
    }
    return CellFiles(
        cell=cell,
        folder=folder,
        told=files["cell"].values,
        status=files["status"].values,
        config=files["config"].values,
        env=files["env"].values,
        log=_by_step(log, "loss", first_step=1),
        nonfinite=_by_step(log, "nonfinite", first_step=0),
        evaluations=tuple(evaluations.rows.values()),
        sample=_newest_sample(folder / "samples"),
        damage=tuple(f"{name} {problem}" for name, problem in problems.items() if problem),
    )


def final_weights(folder: Path, num_steps: int) -> str | None:
    """Return the SHA-256 of the averaged weights of a run's last step.

    None without that checkpoint.
    """
    manifest = folder / "checkpoints" / f"step_{num_steps:08d}" / "manifest.json"
    try:
        found = read_json(manifest).values["files"][EVALUATED_WEIGHTS]["sha256"]
    except (KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _by_step(lines: JsonLines, key: str, *, first_step: int) -> tuple[Record, ...]:
    """Return the lines of a log that have a key, by step.

    Of a step that was written twice the later line.
    """
    found = {
        step: line
        for line in lines.rows.values()
        if key in line and type(step := line.get("step")) is int and first_step <= step <= MAX_INT
    }
    return tuple(found[step] for step in sorted(found))


def _newest_sample(folder: Path) -> Path | None:
    try:
        found = [(int(m[1]), p) for p in folder.iterdir() if (m := SAMPLE_NAME.fullmatch(p.name))]
    except OSError:
        return None
    return max(found)[1] if found else None
