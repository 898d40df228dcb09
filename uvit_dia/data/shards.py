"""Which parquet files make up a split; two sets, or parts of one, are not taken for a whole."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from uvit_dia.data.splits import HELD_OUT, split_within
from uvit_dia.data.summary import counted
from uvit_dia.data.tree import walk
from uvit_dia.system.errors import InputError

# train-00003-of-00005-0123abcd: what is numbered, its number, of how many
NUMBER_OF = re.compile(r"(.*?)(\d+)[-_]of[-_](\d+)(?:[-_.][0-9a-z]+)?", re.IGNORECASE)
NUMBER = re.compile(r"(.*?)(?<!\d)(?<![-_.]v)(\d+)()", re.IGNORECASE)  # train-3, but not train-v3
MAX_LISTED = 3


@dataclass(frozen=True)
class Shards:
    """The parquet files of a split.

    Attributes:
        files: the files, in the order of their images.
        notes: what else lies there.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shard:
    """A parquet file and what its name and its folder say.

    Attributes:
        file: the file.
        split: "train", "validation", "test", or None where nothing says it.
        base: the folder of the set: above a folder that is named like a split.
        is_in_split: whether it lies in a folder that is named like its split.
        series: the name without numbers: shards of a set share it.
        number: as it is written, or "".
        total: of how many, as it is written, or "".
    """

    file: Path
    split: str | None
    base: Path
    is_in_split: bool
    series: str
    number: str
    total: str

    @property
    def pattern(self) -> str:
        """Return the names of the shards of its set, without its folder."""
        of_total = "-of-*" if self.total else ""
        return f"{self.series}*{of_total}.parquet" if self.number else self.file.name

    def sibling(self, number: int) -> str:
        """Return the name of another shard of the set."""
        of_total = f"-of-{self.total}" if self.total else ""
        return f"{self.series}{number:0{len(self.number)}d}{of_total}.parquet"


def find_shards(path: Path, split: str) -> Shards | None:
    """Return the parquet files of a split; their names, or those of their folders, say which it is.

    Args:
        path: a file, which is a training set, or a folder.
        split: "train" or "test"; a validation split stands in for a missing test split.

    Returns:
        The files, or None where there is no test split.

    Raises:
        InputError: if there are none, some are missing, or they belong to more than one set.
    """
    if path.is_file():
        return _one_file(path) if split == "train" else None
    tree = walk(path)
    if tree.broken:
        raise InputError(f"data.path: {tree.broken[0]} is a link to nothing")
    shards = [_read_name(file, path) for file in map(Path, tree.files["parquet"])]
    training = [shard for shard in shards if shard.split == "train"]
    if not any(shard.split for shard in shards):
        training = shards
    if not training:
        found = counted(Counter(str(shard.split) for shard in shards), "file")
        raise InputError(f"data.path: no train*.parquet in {path}; {found or tree.contents()}")
    _check_one_set(path, training, "train")
    chosen = training
    if split == "test":
        of_set = [shard for shard in shards if shard.base == training[0].base]
        held_out = {name: [s for s in of_set if s.split == name] for name in HELD_OUT}
        chosen = next((found for found in held_out.values() if found), [])
        if not chosen:
            return None
        _check_one_set(path, chosen, split)
    files = tuple(shard.file for shard in chosen)
    for shard in shards:
        if shard.split != chosen[0].split or shard.base != chosen[0].base:
            tree.left_out.add("parquet file(s) of other splits", shard.file.name)
    tree.leave_out_all_but("parquet")
    folder = files[0].parent.relative_to(path).as_posix()
    notes = (f"from {folder}",) if folder != "." else ()
    return Shards(files, (*notes, *tree.left_out.notes()))


def _one_file(path: Path) -> Shards:
    total = _read_name(path, path.parent).total
    return Shards((path,), (f"one of {int(total)} shards",) if total and int(total) > 1 else ())


def _read_name(file: Path, root: Path) -> _Shard:
    match = NUMBER_OF.fullmatch(file.stem) or NUMBER.fullmatch(file.stem)
    series, number, total = match.groups("") if match else (file.stem, "", "")
    split = split_within(series) or ("train" if series.lower().startswith("train") else None)
    folders = [folder for folder in file.parents if root in folder.parents]
    if split:  # a folder train around train.parquet adds nothing, but belongs to the set
        named = [folder for folder in folders[:1] if split_within(folder.name) == split]
    else:
        named = [folder for folder in folders if split_within(folder.name)]
        split = split_within(named[0].name) if named else None
    base = named[0].parent if named else file.parent
    return _Shard(file, split, base, bool(named), series, number, total)


def _check_one_set(path: Path, shards: Sequence[_Shard], split: str) -> None:
    """Refuse files of several sets, and sets of which shards are missing.

    Raises:
        InputError: naming the sets or the shards.
    """
    sets: Counter[str] = Counter()
    series: dict[str, list[_Shard]] = {}
    for shard in shards:
        folder = shard.file.parent.relative_to(path).as_posix()
        name = f"{folder}/{shard.pattern}".removeprefix("./")
        series.setdefault(name, []).append(shard)
        sets[f"{folder}/" if shard.is_in_split else name] += 1
    if len(sets) > 1:
        raise InputError(
            f"data.path: {path} holds {split} images of {len(sets)} sets: {counted(sets, 'file')}; "
            f"give the folder or file of one, or move the files of all into {path / split}"
        )
    for found in series.values():
        _check_numbers(found)


def _check_numbers(shards: Sequence[_Shard]) -> None:
    """Refuse a series of shards that has gaps, or is of two editions."""
    first = shards[0]
    if not first.number:
        return
    totals = {int(shard.total) for shard in shards if shard.total}
    numbers = Counter(int(shard.number) for shard in shards)
    start = 0 if 0 in numbers or 1 not in numbers else 1
    end = max(numbers) + 1
    if totals:
        start = 1 if max(totals) in numbers and 0 not in numbers else 0
        end = start + max(totals)
    elif (
        start not in numbers and first.number[0] != "0" and (len(shards) == 1 or first.is_in_split)
    ):
        return  # years or sizes: nothing says that others should be there
    if len(totals) > 1 or max(numbers.values()) > 1 or max(numbers) >= end:
        names = ", ".join(shard.file.name for shard in shards[:MAX_LISTED])
        raise InputError(
            f"data.path: {first.file.parent} holds shards of several editions ({names}); keep one"
        )
    num_missing = end - start - len(numbers)
    if num_missing:
        absent = (first.sibling(n) for n in range(start, end) if n not in numbers)
        names = ", ".join(islice(absent, MAX_LISTED))
        raise InputError(
            f"data.path: {num_missing} of {end - start} shards are missing in {first.file.parent}: "
            f"{names}{', ...' if num_missing > MAX_LISTED else ''}"
        )
