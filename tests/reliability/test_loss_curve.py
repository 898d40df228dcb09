"""A stored curve of losses: what changes a number of the training is seen, wherever it was changed.

python tests/reliability/test_loss_curve.py     stores the curve of this machine, after a change
that was meant
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

CURVES = Path(__file__).resolve().parents[1] / "golden" / "loss_curves.json"
TOLERANCE = 1e-3  # relative, on another machine or torch: sums are rounded in another order
SETTINGS: dict[str, dict[str, object]] = {
    "uvit": {"model.attention": "none"},
    "dia_lstm": {"model.attention": "dia_lstm"},
}

if __name__ == "__main__":
    sys.path.insert(0, str(CURVES.parents[2]))

from tests.support.figures import RecordFigure  # noqa: E402
from tests.support.runs import log_lines, tiny_trainer  # noqa: E402

pytestmark = pytest.mark.reliability


def curve(path: Path, changes: dict[str, object]) -> list[float]:
    """Return the loss of each of 40 steps."""
    tiny_trainer(
        path,
        {**changes, "train.num_steps": 40, "train.log_every_steps": 1, "data.random_flip": True},
    ).fit()
    return [line["loss"] for line in log_lines(path)]


def machine() -> dict[str, str]:
    """Return what the bits of a loss depend on."""
    import torch

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": names[0] if names else "", "vectors": capability}


def test_losses_are_the_stored_ones(tmp_path: Path, record_figure: RecordFigure) -> None:
    stored = json.loads(CURVES.read_text())
    is_same_machine = stored["machine"] == machine()
    largest = 0.0
    for name, changes in SETTINGS.items():
        found, expected = curve(tmp_path / name, changes), stored["losses"][name]
        assert len(found) == len(expected) == 40
        largest = max(largest, *(abs(a / b - 1) for a, b in zip(found, expected, strict=True)))
    where = "the machine that stored it" if is_same_machine else "another machine"
    limit = "== 0" if is_same_machine else f"<= {TOLERANCE}"
    record_figure("G15", f"loss curve on {where}: difference", largest, limit)


def store() -> None:
    with tempfile.TemporaryDirectory() as folder:
        losses = {name: curve(Path(folder) / name, SETTINGS[name]) for name in SETTINGS}
    CURVES.write_text(json.dumps({"machine": machine(), "losses": losses}, indent=1) + "\n")


if __name__ == "__main__":
    store()
