"""A sweep of 48 runs with its report, which several tests read."""

from pathlib import Path

import pytest

from tests.support.full_sweep import make_full_sweep
from uvit_dia.report.__main__ import write_report


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's folder; its report lies in `report`."""
    folder = tmp_path_factory.mktemp("sweeps") / "full"
    make_full_sweep(folder)
    write_report(folder, folder / "report")
    return folder
