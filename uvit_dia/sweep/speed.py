"""How fast this machine runs the cells of a sweep, alone and side by side: measured and kept.

`--measure` measures it once, in minutes; `--dry_run` then tells how many cells at once the machine
holds best, and what the sweep takes.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from uvit_dia.config.files import config_hash
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.side_by_side import steps_a_second
from uvit_dia.system.cores import usable_cores
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.files import cache_folder, write_json
from uvit_dia.system.records import number, read_json

WORTH = 1.05  # more steps a second of all cells, for which more cells at once are tried
ALIKE = 0.97  # of the best, from which on fewer cells at once are as good


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        together: cells at once -> steps a second of all of them, at the first batch size.
        step_seconds: batch size -> seconds a step of a cell that is alone.
        start_seconds: until the first step of a cell that is alone.
    """

    together: dict[int, float]
    step_seconds: dict[int, float]
    start_seconds: float

    @property
    def best(self) -> int:
        """The fewest cells at once that are about as fast as any number of them."""
        fastest = max(self.together.values())
        return min(count for count, rate in self.together.items() if rate >= ALIKE * fastest)

    def seconds(self, cell: Cell, beside: float = 0.0) -> float:
        """Return what a cell takes alone; 0 for unknown.

        Args:
            cell: the cell.
            beside: what its start and its evaluation take; 0 for the start alone, as measured.
        """
        step = self.step_seconds.get(cell.batch_size, 0.0)
        return (beside or self.start_seconds) + cell.num_steps * step if step else 0.0

    def gain(self, max_parallel: int) -> float:
        """Return how many times the steps a second so many cells at once make, at least 1."""
        known = [count for count in self.together if count <= max_parallel]
        return max(self.together[count] for count in known) / self.together[min(known)]


def kept_speed(sweep: Sweep) -> Speed | None:
    """Return what was measured for such cells on this machine.

    None if nothing was, or if the file is damaged: --measure then writes it again.
    """
    try:
        values = read_json(_place(sweep)).values
    except (RuntimeError, InputError):  # a user without a cache
        return None
    together, step_seconds = (_by_number(values.get(n)) for n in ("together", "step_seconds"))
    start_seconds = number(values.get("start_seconds"))
    if not together or not step_seconds or not start_seconds >= 0:
        return None
    return Speed(together, step_seconds, start_seconds)


def _by_number(found: object) -> dict[int, float]:
    """Return positive numbers by their counts; empty if one of them is neither."""
    if not isinstance(found, dict):
        return {}
    numbers = {count: number(value) for count, value in found.items()}
    if not all(count.isdecimal() and value > 0 for count, value in numbers.items()):
        return {}
    return {int(count): value for count, value in numbers.items()}


def measure_speed(sweep: Sweep, say: Callable[[str], None] = print) -> Speed:
    """Run cells for some seconds each, in a temporary folder, and keep how fast they were.

    Args:
        sweep: whose first cell of each batch size is run.
        say: is told each result.

    Raises:
        InputError: if a cell does not run, with its last line; or if there is no cache.
        StorageError: if the result cannot be kept.
    """
    firsts = {cell.batch_size: cell for cell in reversed(sweep.cells)}
    first = sweep.cells[0]
    limit = max(1, usable_cores() // (sweep.launch.threads * sweep.launch.num_processes))
    counts = [count for count in (2**k for k in range(20)) if count <= limit]
    counts += [limit] if limit not in counts else []
    together: dict[int, float] = {}
    start_seconds = 0.0
    for count in counts:
        rate, started = steps_a_second(sweep, [first] * count)
        start_seconds = start_seconds or started
        say(f"{count} at once: {rate:.3g} steps a second together, batch size {first.batch_size}")
        best_before = max(together.values(), default=0.0)
        together[count] = rate
        if rate < WORTH * best_before:
            break
    step_seconds = {first.batch_size: 1 / together[1]}
    for batch_size, cell in sorted(firsts.items()):
        if batch_size not in step_seconds:
            rate, _ = steps_a_second(sweep, [cell])
            say(f"batch size {batch_size}: {rate:.3g} steps a second")
            step_seconds[batch_size] = 1 / rate
    speed = Speed(together, step_seconds, start_seconds)
    path = _place(sweep)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(speed))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return speed


def _place(sweep: Sweep) -> Path:
    """Return the file for such cells on such a machine."""
    launch = sweep.launch
    configs = [config_hash(sweep.configs[cell.name]) for cell in sweep.cells]
    machine = [
        platform.node(),
        platform.machine(),
        usable_cores(),
        launch.threads,
        launch.num_processes,
    ]
    key = hashlib.sha256(json.dumps([*machine, *configs]).encode()).hexdigest()
    return cache_folder() / "sweep_speed" / f"{key[:32]}.json"
