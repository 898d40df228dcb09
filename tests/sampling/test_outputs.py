"""What the name of an output asks for, and which names are refused."""

from pathlib import Path

import pytest

from uvit_dia.sampling.outputs import ANIMATION, ARRAY, FOLDER, GRID, output_kind
from uvit_dia.system.errors import InputError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grid.png", GRID),
        ("GRID.PNG", GRID),
        ("a.b.Png", GRID),
        ("samples.npz", ARRAY),
        ("SAMPLES.NPZ", ARRAY),
        ("a.gif", ANIMATION),
        ("a.WebP", ANIMATION),
        ("samples", FOLDER),
        ("samples.v2", FOLDER),
        ("run/step_00001000", FOLDER),
        ("png", FOLDER),
        (".png", FOLDER),
    ],
)
def test_suffixes_are_read_without_regard_to_case(name: str, kind: str) -> None:
    assert output_kind(Path(name)) == kind


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPG", "a.jpeg", "a.avif", "a.Bmp", "a.tiff", "a.npy", "a.zip"]
)
def test_other_kinds_of_files_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError) as caught:
        output_kind(Path(name))
    told = str(caught.value)
    assert told.startswith(f"--output {name}: {Path(name).suffix.lower()} is not written")
    assert ".png" in told and ".npz" in told and len(told) < 160
