"""The quickstart, run as the Makefile runs it: its time, its memory, and whether its digits are digits."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 6 * 60
MAX_BYTES = 2 * 10**9


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """Run the commands of `make quickstart` in a folder of their own; return run, seconds and output."""
    run = tmp_path_factory.mktemp("quickstart") / "run"
    recipe = re.search(
        r"^quickstart: install-package\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    )
    assert recipe is not None
    commands = [
        line.strip().replace("$(BIN)/python", sys.executable).replace("$(RUN)", str(run))
        for line in recipe[1].splitlines()
        if "$(BIN)/python" in line
    ]
    assert [Path(command.split()[1]).name for command in commands] == [
        "train.py",
        "sample.py",
        "eval_fid.py",
    ]
    environment = {**os.environ, "UVIT_DIA_CACHE": str(run.parent / "cache")}
    started = time.monotonic()
    output = ""
    for command in commands:
        done = subprocess.run(
            command.split(), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        output += done.stdout
    return run, time.monotonic() - started, output


def test_time_and_memory(quickstart: tuple[Path, float, str]) -> None:
    _, seconds, _ = quickstart
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024
    print(f"quickstart: {seconds:.0f} s, peak memory {peak_bytes / 1e9:.2f} GB")
    assert seconds <= MAX_SECONDS
    assert peak_bytes < MAX_BYTES


def test_distance_beside_its_floor(quickstart: tuple[Path, float, str]) -> None:
    run, _, output = quickstart
    line = json.loads(next(row for row in output.splitlines() if row.startswith("{")))
    assert json.loads((run / "eval.jsonl").read_text().splitlines()[-1]) == line
    assert line["metric"] == "fd" and line["num_images"] == 500
    assert 0 < line["floor"] < line["value"] < 8  # an untrained model is above 50


def test_samples_are_digits(quickstart: tuple[Path, float, str], tmp_path: Path) -> None:
    """At least 75 % of 500 samples get a class probability of 0.8; each class takes 4 % to 20 % of them."""
    run, _, _ = quickstart
    target = tmp_path / "samples.npz"
    command = [
        "sample.py",
        "--checkpoint",
        str(run),
        "--num_images",
        "500",
        "--output",
        str(target),
    ]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    samples = np.load(target)["arr_0"].reshape(500, 64).astype(float) * (16 / 255)
    digits = load_digits()
    train, held_out, train_labels, held_out_labels = train_test_split(
        digits.data, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    classifier = MLPClassifier((256,), max_iter=1000, random_state=0).fit(train, train_labels)
    assert classifier.score(held_out, held_out_labels) > 0.97
    probabilities = classifier.predict_proba(samples)
    sure = (probabilities.max(axis=1) >= 0.8).mean()
    shares = np.bincount(probabilities.argmax(axis=1), minlength=10) / 500
    print(f"sure of {sure:.3f}; shares from {shares.min():.3f} to {shares.max():.3f}")
    assert sure >= 0.75
    assert shares.min() >= 0.04 and shares.max() <= 0.20
