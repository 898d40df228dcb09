"""One-line messages: short, and with the path whole that the reader must act on."""

import pytest

from uvit_dia.system.messages import LONGEST_WHOLE, MAX_LINE, clip, shorten_paths

LONG_PATH = "/data" + "/a_long_name_of_a_folder" * 20 + "/config.json"
# such as a cluster's scratch folder
PATH = (
    "/scratch/projects/p12345/user/uvit_dia/runs/" + "batch_size_sweep_of_july/" * 4 + "config.json"
)


@pytest.mark.parametrize(
    "message",
    [
        f"cannot read {LONG_PATH}: No such file or directory",
        f"{LONG_PATH} holds samples of another checkpoint than {LONG_PATH}",
        f"--checkpoint: no folder {'x' * 4000}",
    ],
)
def test_a_line_with_long_paths_fits(message: str) -> None:
    line = shorten_paths(message)
    assert len(line) <= MAX_LINE
    assert "..." in line
    for word in message.split(" "):
        assert word in line or (word[:10] in line and word[-10:] in line), word


def test_addresses_and_what_is_no_path_stay_whole() -> None:
    address = "https://example.org/" + "x" * 300
    assert shorten_paths(f"get {address}") == f"get {address}"
    words = "train.batch_size: 64 -> 32; " * 20
    assert shorten_paths(words) == words
    assert shorten_paths(f"cannot read {LONG_PATH[:100]}") == f"cannot read {LONG_PATH[:100]}"


@pytest.mark.faults
@pytest.mark.parametrize(
    "message",
    [
        f"train.py: {PATH} is damaged, " + "and so is everything else " * 4 + "in this folder",
        f"no space for checkpoints in {PATH}: need 2156000000 bytes, have 17; " + "make room " * 9,
        f"cannot download https://example.org/{'x' * 90} (timed out); put the file at {PATH}",
    ],
)
def test_the_path_to_act_on_is_never_cut(message: str) -> None:
    """A reader copies it from the line, however long the line is."""
    assert len(PATH) <= LONGEST_WHOLE
    assert len(message) > MAX_LINE
    assert shorten_paths(message) == message


@pytest.mark.faults
def test_other_paths_are_cut_first() -> None:
    other = PATH.replace("scratch", "old") + ".bak"
    line = shorten_paths(f"{PATH} holds samples of another checkpoint than {other}; move it away")
    assert PATH in line
    assert other not in line
    assert len(line) < len(PATH) + len(other)


@pytest.mark.faults
def test_a_path_that_must_be_cut_keeps_the_name_of_its_file() -> None:
    name = "validation_images_of_the_second_half_of_the_year_2026.parquet"
    line = shorten_paths(
        f"cannot read {LONG_PATH.removesuffix('config.json')}{name}: it is damaged"
    )
    assert line.endswith(f"/{name}: it is damaged")
    assert len(line) <= MAX_LINE


def test_texts_of_others_become_one_short_line() -> None:
    assert clip("two\n  lines\t here") == "two lines here"
    assert clip("x" * 300, 80) == "x" * 77 + "..."
