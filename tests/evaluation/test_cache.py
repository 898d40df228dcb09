"""The cache only saves time: without a place for it everything is computed, and said once."""

import json
from pathlib import Path

import pytest
import torch

from uvit_dia.evaluation.cache import Cache, Features, Numbers


class Computed:
    """What is computed, and how often."""

    def __init__(self) -> None:
        self.calls = 0

    def features(self) -> Features:
        self.calls += 1
        return {"features": torch.arange(6.0).view(2, 3)}

    def numbers(self) -> Numbers:
        self.calls += 1
        return {"floor": 1.25, "floor_std": None, "rule": "500 of them"}


@pytest.fixture
def computed() -> Computed:
    return Computed()


def places_that_take_no_files(tmp_path: Path) -> list[Path | None]:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("/dev/null")
    return [
        None,
        tmp_path / "file",
        tmp_path / "file" / "below",
        tmp_path / "link" / "below",
        Path("/dev/null/.cache/uvit_dia"),
        Path("/proc/uvit_dia"),  # a file system that takes no new folders, even from root
        tmp_path / ("x" * 300),
    ]


def test_where_nothing_can_be_kept_everything_is_computed_and_that_is_said_once(
    tmp_path: Path, computed: Computed
) -> None:
    for place in places_that_take_no_files(tmp_path):
        warnings: list[str] = []
        computed.calls = 0
        cache = Cache(place, warnings.append)
        for _ in range(2):
            assert cache.features("set", "key", computed.features)["features"].shape == (2, 3)
            assert cache.numbers("set", "key", computed.numbers)["floor"] == 1.25
        assert computed.calls == 4
        expected = 0 if place is None else 1
        assert len(warnings) == expected, (place, warnings)
        assert all("it is computed each time" in warning for warning in warnings)


def test_no_home_folder_is_said_once_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    def unknown(*args: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "UVIT_DIA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    warnings: list[str] = []
    cache = Cache.of_user(warnings.append)
    cache.features("set", "key", computed.features)
    cache.numbers("set", "key", computed.numbers)
    assert computed.calls == 2
    assert len(warnings) == 1
    assert "no home folder" in warnings[0]


def test_numbers_are_kept_by_key(tmp_path: Path, computed: Computed) -> None:
    cache = Cache(tmp_path, pytest.fail)
    first = cache.numbers("set", "key", computed.numbers)
    assert cache.numbers("set", "key", computed.numbers) == first
    assert computed.calls == 1
    cache.numbers("set", "other key", computed.numbers)
    assert computed.calls == 2


def test_no_change_of_kept_numbers_goes_unseen(tmp_path: Path, computed: Computed) -> None:
    warnings: list[str] = []
    cache = Cache(tmp_path, warnings.append)
    expected = cache.numbers("set", "key", computed.numbers)
    (file,) = (tmp_path / "floors").iterdir()
    whole = file.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 7)
        file.write_bytes(content)
        assert cache.numbers("set", "key", computed.numbers) == expected
        assert file.read_bytes() == whole
    assert len(warnings) == len(whole)
    for content in (b"", b"[]", b"{}", b"null", b"[" * 100_000, whole[:-5], b"\xff" + whole):
        file.write_bytes(content)
        assert cache.numbers("set", "key", computed.numbers) == expected
    record = json.loads(whole)
    record["numbers"]["floor"] = 0.1  # under the old hash
    file.write_text(json.dumps(record, indent=1) + "\n")
    assert cache.numbers("set", "key", computed.numbers) == expected
