"""JSON files that were cut, edited or carried over from another system."""

import json
from pathlib import Path

import pytest

from uvit_dia.system.files import append_line
from uvit_dia.system.records import number, read_json, read_json_lines

WHOLE = b'{"step": 2}\n{"step": 4}\n'


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        (WHOLE, [2, 4]),
        (WHOLE.replace(b"\n", b"\r\n"), [2, 4]),  # of Windows
        (b"\xef\xbb\xbf" + WHOLE, [2, 4]),  # with a byte order mark
        (WHOLE[:-1], [2, 4]),  # by an editor that ends no last line
        (b"\n" + WHOLE + b"\n\n", [2, 4]),
        (WHOLE + b'{"step": 6, "lo', [2, 4]),
        (b'{"step": 2, "x": "\xe2\x80\xa8"}\n{"step": 4}\n', [2, 4]),  # U+2028 ends no line
        (b'{"step": 2, "loss": NaN}\n{"step": 4, "loss": -Infinity}\n', [2, 4]),
        (b"", []),
    ],
)
def test_lines_of_any_system(content: bytes, steps: list[int], tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    assert [row["step"] for row in read_json_lines(path).rows.values()] == steps


@pytest.mark.parametrize("damage", [b'{"step": 3', b"[3]", b"\x00", b"[" * 100_000, b"\xff"])
def test_a_damaged_line_is_told_with_its_number(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(WHOLE[:12] + damage + b"\n\n" + WHOLE[12:])
    found = read_json_lines(path)
    assert {k: v["step"] for k, v in found.rows.items()} == {1: 2, 4: 4}
    assert list(found.damaged) == [2, 3]
    assert found.summary == "has 1 damaged line(s)"  # a blank line is none
    assert found.num_lines == 4


def test_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(10_000)))
    found = read_json_lines(path, last_bytes=200)
    steps = [row["step"] for row in found.rows.values()]
    assert steps == list(range(10_000 - len(steps), 10_000))
    assert 10 <= len(steps) <= 20
    assert not found.damaged
    assert len(read_json_lines(path, last_bytes=10**9).rows) == 10_000


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    assert read_json_lines(tmp_path / "folder").summary == "cannot be read (Is a directory)"
    assert read_json(tmp_path / "folder").problem == "cannot be read (Is a directory)"
    assert read_json(tmp_path / "nowhere").problem == ""  # not there is not damaged
    assert read_json_lines(tmp_path / "nowhere").summary == ""
    (tmp_path / "long").write_text(json.dumps({"text": "x" * 100}))
    monkeypatch.setattr("uvit_dia.system.records.MAX_JSON_BYTES", 50)
    assert read_json(tmp_path / "long").problem == "is larger than 50 bytes and was not read"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\x00", b"[" * 100_000, b"7"])
def test_a_damaged_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    found = read_json(tmp_path / "a.json")
    assert (found.values, found.problem) == ({}, "is damaged")


@pytest.mark.parametrize("value", [None, True, "1", [], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_finite_number(value: object) -> None:
    assert str(number(value)) == "nan"
    assert (number(3), number(0.5)) == (3.0, 0.5)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", []),
        (WHOLE, [2, 4]),
        (WHOLE[:-1], [2, 4]),  # whole, but for its line end
        (WHOLE[:-3], [2]),
        (WHOLE[:1], []),
        (WHOLE + b'{"step": ' + b"[" * 100_000, [2, 4]),
    ],
)
def test_nothing_is_appended_to_a_line_that_a_kill_has_cut(
    left: bytes, kept: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(left)
    append_line(path, '{"step": 6}')
    found = read_json_lines(path)
    assert [row["step"] for row in found.rows.values()] == [*kept, 6]
    assert found.summary == ""
