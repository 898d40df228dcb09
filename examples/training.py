"""The training loop of the examples: epochs through Accelerate, resumed where the last one ended.

What is trained is a `Task`: a classifier, a detector. All that is random in an epoch follows from
the seed and the epoch, so that a run that was interrupted ends with the weights of one that was not
(on the same machine and as many processes). A run's folder holds

    config.json     what the run is; a folder of another run is refused
    metrics.jsonl   a line an epoch
    state.pt        weights, optimizer and the lines so far; replaced as a whole
    record.json     what came out, once it is finished
"""

import io
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from examples.command import refusing_in_one_line
from uvit_dia.rng import position_seed
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically, write_json

MAX_GRAD_NORM = 1e9  # of tasks that do not clip: the norm is measured, nothing is changed


class Task(Protocol):
    """What `fit` trains.

    Attributes:
        model: the network, on the CPU.
        facts: all that the run is, as JSON's types; a resumed run must have the same.
        seed: of everything random after the first weights.
        num_epochs: length of the run.
        batch_size: global.
        eval_every_epochs: distance between evaluations; there is one at the end in any case.
        max_grad_norm: to which gradients are clipped; `MAX_GRAD_NORM` for not at all.
    """

    model: nn.Module
    facts: Mapping[str, object]
    seed: int
    num_epochs: int
    batch_size: int
    eval_every_epochs: int
    max_grad_norm: float

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer; its learning rates are the highest of the run."""
        ...

    def lr_factor(self, epoch: float) -> float:
        """Return the share of the highest learning rate at a point of the run, in epochs."""
        ...

    def num_batches(self) -> int:
        """Return how many steps an epoch has."""
        ...

    def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[Any]:
        """Yield this process's share of each batch of an epoch, on the device."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401, the task's own
        """Return the loss of a share of a batch, ()."""
        ...

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Measure a model in evaluation mode; the main process alone calls it."""
        ...


def fit(task: Task, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """Train to the last epoch, from where the folder's state is; return the record.

    A loss that is not finite ends the run: the record says `diverged`, which is a result.

    Args:
        task: what is trained.
        folder: of the run; made if it is not there.
        accelerator: devices and processes.

    Raises:
        InputError: if the folder is that of another run.
    """
    _claim(folder, dict(task.facts), accelerator)
    optimizer = task.make_optimizer()
    highest = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(task.model, optimizer)
    lines = _load(folder, accelerator.unwrap_model(model), optimizer)
    while len(lines) < task.num_epochs and not _has_diverged(lines):
        epoch, started = len(lines), time.monotonic()
        mean_loss, norm = _train_epoch(task, model, optimizer, highest, epoch, accelerator)
        line: dict[str, Any] = {"epoch": epoch + 1, "train_loss": mean_loss, "grad_norm": norm}
        if mean_loss is None:
            line["diverged"] = True
        elif _is_evaluated(epoch + 1, task) and accelerator.is_main_process:
            plain = accelerator.unwrap_model(model).eval()
            with torch.no_grad():
                line |= task.evaluate(plain, accelerator.device)
        line["seconds"] = round(time.monotonic() - started, 2)
        lines.append(line)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _save(folder, accelerator.unwrap_model(model), optimizer, lines)
            print(json.dumps(line), flush=True)
    record = {**task.facts, **lines[-1], "versions": _versions()}
    if accelerator.is_main_process:
        write_json(folder / "record.json", record)
    accelerator.wait_for_everyone()
    return record


def train(name: str, make: Callable[[], Task], workdir: str) -> None:
    """Train as a command; wrong input ends with one line and exit code 2.

    Args:
        name: of the command, for the line.
        make: makes what is trained.
        workdir: folder of the run.
    """
    with refusing_in_one_line(name):
        accelerator = Accelerator()
        task = make()
        if task.batch_size % accelerator.num_processes:
            raise InputError(
                f"--batch_size {task.batch_size} is not divisible by "
                f"{accelerator.num_processes} processes"
            )
        fit(task, Path(workdir).expanduser(), accelerator)


def _train_epoch(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    highest: list[float],
    epoch: int,
    accelerator: Accelerator,
) -> tuple[float | None, float | None]:
    """Train an epoch; return the means of loss and gradient norm, None where not finite."""
    place = epoch * accelerator.num_processes + accelerator.process_index
    torch.manual_seed(position_seed(task.seed, "examples", place))  # of dropout and the like
    model.train()
    count = task.num_batches()
    totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for index, batch in enumerate(task.batches(epoch, accelerator)):
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * task.lr_factor(epoch + index / count)
        loss = task.loss(model, batch)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), task.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        totals += torch.stack([loss.detach().double(), torch.as_tensor(norm).double()])
    loss_sum, norm_sum = (accelerator.reduce(totals, "mean") / count).tolist()
    return (loss_sum if math.isfinite(loss_sum) else None), (
        norm_sum if math.isfinite(norm_sum) else None
    )


def _is_evaluated(epoch: int, task: Task) -> bool:
    return epoch % task.eval_every_epochs == 0 or epoch == task.num_epochs


def _has_diverged(lines: list[dict[str, Any]]) -> bool:
    return bool(lines) and "diverged" in lines[-1]


def _claim(folder: Path, facts: dict[str, object], accelerator: Accelerator) -> None:
    """Make the folder of a run, or check that it is this run's."""
    path = folder / "config.json"
    facts = json.loads(json.dumps(facts))
    if path.exists():
        found = json.loads(path.read_text())
        # a fact that the folder lacks was not yet written down when the run began
        other = [name for name in found if found[name] != facts.get(name)]
        if other:
            name = other[0]
            raise InputError(
                f"--workdir {folder} holds another run: its {name} is {found.get(name)!r}, not "
                f"{facts.get(name)!r}; give another folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"--workdir {folder} holds other files; give an empty or a new folder")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
    accelerator.wait_for_everyone()


def _save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, lines: list[dict[str, Any]]
) -> None:
    content = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lines": lines}
    torch.save(state, content)
    write_atomically(folder / "state.pt", content.getvalue())
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(folder / "metrics.jsonl", text.encode())


def _load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Load a run's state, if it has one; return the lines of its epochs."""
    path = folder / "state.pt"
    if not path.exists():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["lines"]


def load_weights(folder: Path, model: nn.Module) -> int:
    """Load the weights of a run's last epoch; return how many epochs it had.

    Raises:
        InputError: if the folder has none.
    """
    path = folder / "state.pt"
    if not path.is_file():
        raise InputError(f"{folder} holds no run that has ended an epoch (state.pt)")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    return len(state["lines"])


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}
