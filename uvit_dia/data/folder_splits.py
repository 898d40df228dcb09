"""Where in a folder of images the splits lie, if it has any."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from uvit_dia.data.splits import HELD_OUT, split_called, split_within
from uvit_dia.data.summary import counted
from uvit_dia.data.tree import Tree, subfolders, walk
from uvit_dia.system.errors import InputError


def find_splits(path: Path) -> dict[str, list[Path]]:
    """Return the folders of each split ("train", "validation", "test"), {} if all are classes.

    Raises:
        InputError: if folders named like splits lie beside others with images: all may be classes.
    """
    folders = subfolders(path)
    if not _look_like_splits(folders):
        return {}
    counts = count_images(folders)
    folders = [folder for folder in folders if folder.name in counts]
    if not _look_like_splits(folders):
        return {}
    splits: dict[str, list[Path]] = {}
    for folder in folders:
        split = split_called(folder.name)
        if split is None:
            raise InputError(
                f"data.path: {path} holds folders that are named like splits, and others: "
                f"{counted(counts, 'image')}; name the splits train and test and move the others "
                f"away, or move all of them into {path / 'train'} if they are classes"
            )
        splits.setdefault(split, []).append(folder)
    return splits


def _look_like_splits(folders: list[Path]) -> bool:
    """Say whether one is named as a split is, or two like different ones (train2017, val2017)."""
    alike = {split_within(folder.name) for folder in folders} - {None}
    return len(alike) > 1 or any(split_called(folder.name) for folder in folders)


def choose_split(path: Path, splits: dict[str, list[Path]], split: str) -> Path | None:
    """Return the folder of "train" or "test"; a validation split stands in for a missing test.

    Raises:
        InputError: if there is none of "train", or more than one folder of a split.
    """
    names = ("train",) if split == "train" else HELD_OUT
    folders = next((splits[name] for name in names if name in splits), [])
    if len(folders) == 1:
        return folders[0]
    if not folders and split == "test":
        return None
    found = count_images(folder for folders in splits.values() for folder in folders)
    raise InputError(
        f"data.path: {path} holds {'several folders' if folders else 'no folder'} of {split} "
        f"images: {counted(found, 'image')}; one must be named {split}"
    )


def refuse_splits_in_classes(tree: Tree) -> None:
    """Refuse folders that are named like splits inside of what would be taken for classes.

    Raises:
        InputError: naming these folders, with the number of their images.
    """
    found: Counter[str] = Counter()
    for folder, count in Counter([file.rpartition("/")[0] for file in tree.images]).items():
        parts = tree.inside(folder).split("/")
        depth = next((i for i, part in enumerate(parts) if split_called(part)), None)
        if depth is not None:
            found["/".join(parts[: depth + 1])] += count
    if found:
        raise InputError(
            f"data.path: folders in {tree.root} hold folders that are named like splits: "
            f"{counted(found, 'image')}; give the folder that holds train as data.path, or move "
            f"all into {tree.root / 'train'} if these are classes"
        )


def count_images(folders: Iterable[Path]) -> dict[str, int]:
    """Return the number of images below each folder, by its name, where there are any."""
    counts = {folder.name: len(walk(folder).images) for folder in folders}
    return {name: count for name, count in counts.items() if count}
