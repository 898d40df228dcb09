"""What importing the package of models costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import uvit_dia.models
from uvit_dia.models.uvit import UViT

ROOT = Path(__file__).resolve().parents[2]


def test_the_models_are_imported_without_torch() -> None:
    program = "import sys, uvit_dia.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_network_is_imported_where_it_is_asked_for() -> None:
    from uvit_dia.models import UViT as lazy

    assert lazy is UViT
    with pytest.raises(AttributeError, match="has no attribute 'UVit'"):
        uvit_dia.models.UVit  # noqa: B018
