"""The quickstart, run as the Makefile runs it.

Its time, its memory, and whether its digits are digits.
"""

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
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 6 * 60
MAX_BYTES = 2 * 10**9
CLASSIFIERS = {
    "SVM with Platt scaling": lambda: CalibratedClassifierCV(SVC(), ensemble=False),
    "MLP": lambda: MLPClassifier((256,), max_iter=1000, random_state=0),
    "random forest": lambda: RandomForestClassifier(500, random_state=0),
}
Samples = dict[float, np.ndarray]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """Run the commands of `make quickstart` in a folder of their own.

    Return run, seconds and output.
    """
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
    assert 0 < line["value"] < 2 < 10 * line["floor"]  # an untrained model is above 50


@pytest.fixture(scope="module")
def samples(
    quickstart: tuple[Path, float, str], tmp_path_factory: pytest.TempPathFactory
) -> Samples:
    """Return 500 samples, the digits in turn, by guidance scale, as scikit-learn's features."""
    run, _, _ = quickstart
    found = {}
    for scale in (1.0, 1.5):
        target = tmp_path_factory.mktemp("samples") / "samples.npz"
        flags = ["--num_images", "500", "--guidance_scale", str(scale), "--output", str(target)]
        command = [sys.executable, "sample.py", "--checkpoint", str(run), *flags]
        subprocess.run(command, cwd=ROOT, check=True)
        found[scale] = np.load(target)["arr_0"].reshape(500, 64).astype(float) * (16 / 255)
    return found


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training and held-out digits, and their labels."""
    digits = load_digits()
    return tuple(
        train_test_split(
            digits.data, digits.target, test_size=0.25, random_state=0, stratify=digits.target
        )
    )


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_samples_are_the_digits_that_were_asked_for(
    samples: Samples, real: tuple[np.ndarray, ...], kind: str
) -> None:
    """Classifiers are as sure of samples as of real digits that they have not seen, and agree."""
    train, held_out, train_labels, held_out_labels = real
    classifier = CLASSIFIERS[kind]().fit(train, train_labels)
    assert classifier.score(held_out, held_out_labels) > 0.96
    of_samples, of_guided, of_real = (
        classifier.predict_proba(each) for each in (samples[1.0], samples[1.5], held_out)
    )
    sure = [(each.max(axis=1) >= 0.8).mean() for each in (of_samples, of_real)]
    shares = np.bincount(of_samples.argmax(axis=1), minlength=10) / 500
    asked = np.arange(500) % 10
    agrees = [(each.argmax(axis=1) == asked).mean() for each in (of_samples, of_guided)]
    print(f"{kind}: sure of {sure[0]:.3f} of samples, {sure[1]:.3f} of real ones; agrees {agrees}")
    assert sure[0] >= 0.85 * sure[1]
    assert shares.min() >= 0.05 and shares.max() <= 0.16
    assert agrees[1] >= 0.95


def test_samples_are_no_copies(samples: Samples, real: tuple[np.ndarray, ...]) -> None:
    """Samples lie as far from the nearest training digit as held-out digits do, or nearly."""
    train, held_out, *_ = real
    everything = np.concatenate((train, held_out))
    of_samples = np.median(nearest(samples[1.0], everything))
    of_real = np.median(nearest(held_out, train))
    print(
        f"median distance to the nearest: {of_samples:.1f} of samples, {of_real:.1f} of real ones"
    )
    assert of_samples > 0.8 * of_real


def nearest(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.sqrt(((these[:, None] - others[None]) ** 2).sum(axis=-1)).min(axis=1)
