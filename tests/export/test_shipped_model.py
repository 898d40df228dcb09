"""The exported model of the repository.

Whole, small, and able to draw the digits that are asked for.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import uvit_dia
from uvit_dia.runs.exported import WEIGHTS
from uvit_dia.system.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits_uvit_dia_cond"


def test_it_is_whole_and_small() -> None:
    index = json.loads((MODEL / "model_index.json").read_text())
    assert index["uvit_dia"]["weights_sha256"] == sha256_file(MODEL / WEIGHTS)
    size = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    assert size < 2_000_000
    card = (MODEL / "README.md").read_text()
    assert "license: apache-2.0" in card and "not FID" in card


def test_it_draws_the_digits_that_are_asked_for() -> None:
    images = uvit_dia.load(MODEL).sample(50, guidance_scale=1.5, output_type="np")
    assert isinstance(images, np.ndarray)
    digits = load_digits()
    classifier = SVC().fit(digits.data, digits.target)
    found = classifier.predict(images.reshape(50, 64).astype(float) * (16 / 255))
    assert (found == np.arange(50) % 10).mean() >= 0.95
