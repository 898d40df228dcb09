"""The evaluations of a trained cell: which are there, of which weights, and what they come to."""

import json
import math
from pathlib import Path

from uvit_dia.sweep.folder import read_json
from uvit_dia.system.files import write_atomically

EVALUATED_WEIGHTS = "ema.safetensors"


def final_weights(folder: Path, num_steps: int) -> str | None:
    """Return the SHA-256 of the averaged weights of a run's last step; None where that checkpoint is not there."""
    manifest = read_json(folder / "checkpoints" / f"step_{num_steps:08d}" / "manifest.json") or {}
    try:
        found = manifest["files"][EVALUATED_WEIGHTS]["sha256"]
    except (KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def evaluations_by_seed(
    path: Path, expected: dict[str, object], seeds: range
) -> dict[int, dict[str, object]]:
    """Return the lines of an `eval.jsonl` that are what was asked for, one a seed; the first of equals holds.

    Args:
        path: the file; it need not be there.
        expected: what a line must hold.
        seeds: wanted seeds of the samples.
    """
    found: dict[int, dict[str, object]] = {}
    for text in _lines(path):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(line, dict) or any(line.get(k) != v for k, v in expected.items()):
            continue
        seed = line.get("seed")
        if isinstance(seed, int) and seed in seeds:
            found.setdefault(seed, line)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def drop_torn_line(path: Path) -> None:
    """Take away a last line that was torn by a kill, so that nothing is appended to it."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            write_atomically(path, content[: content.rfind(b"\n") + 1])


def evaluation_facts(weights: str, lines: dict[int, dict[str, object]]) -> dict[str, object]:
    """Return what `cell.json` says of a finished cell: its metric with the value of each seed, and their mean."""
    first = lines[min(lines)]
    values = {str(seed): lines[seed].get("value") for seed in sorted(lines)}
    numbers = [float(v) for v in values.values() if isinstance(v, int | float)]
    return {
        "metric": first.get("metric"),
        "value": math.fsum(numbers) / len(numbers) if numbers else None,
        "values": values,
        "floor": first.get("floor"),
        "num_images": first.get("num_images"),
        "weights_sha256": weights,
    }
