"""Folders of images: one sub-folder a class, or sub-folders for splits that hold the classes."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unicodedata import normalize

from uvit_dia.data.file_kinds import kind_of, suffix_of
from uvit_dia.data.folder_splits import choose_split, find_splits, refuse_splits_in_classes
from uvit_dia.data.listing import EncodedImage, Listing, UnreadableImageError
from uvit_dia.data.tree import Tree, subfolders, walk
from uvit_dia.system.errors import InputError


def list_folder(path: Path, split: str) -> Listing | None:
    """List the images of a split.

    Sub-folders named train, val, test and the like are splits, and their sub-folders classes; where
    there are none, the sub-folders are classes. Images directly in the folder make a set without
    labels.

    Args:
        path: the folder.
        split: "train" or "test"; a validation split stands in for a missing test split.

    Returns:
        The listing, or None where there is no test split.

    Raises:
        InputError: if there are no images, or nobody can tell which of them are meant.
    """
    splits = find_splits(path)
    if not splits and split == "test":
        return None
    root = choose_split(path, splits, split) if splits else path
    if root is None:
        return None
    tree = walk(root)
    if not tree.images and not tree.broken:
        raise InputError(f"data.path: no images (.png, .jpg, ...) in {root}; {tree.contents()}")
    _refuse_loose(path, tree)
    if root == path:
        refuse_splits_in_classes(tree)
    classes = [folder.name for folder in subfolders(root)]
    train = choose_split(path, splits, "train") if splits else None
    if train not in (None, root):  # a label means the same class in both splits
        shared = [folder.name for folder in subfolders(train)]
        classes = shared + [name for name in classes if name not in shared]
    beside = sorted(f.name for folders in splits.values() for f in folders if f != root)
    source = f"folder {path}, {split if root == path else root.name}"
    return _listing(path, tree, classes, source, beside)


def _listing(path: Path, tree: Tree, classes: list[str], source: str, beside: list[str]) -> Listing:
    files = tuple(tree.files["image"])
    folders = [file.rpartition("/")[0] for file in files]
    # folder of files -> (class folder in the root, "/" below it, the rest)
    in_root = {folder: tree.inside(folder).partition("/") for folder in set(folders)}
    is_labelled = any(name for name, _, _ in in_root.values())

    def encoded() -> Iterator[EncodedImage]:
        return (EncodedImage(file, partial(_read, file)) for file in files)

    labels = None
    notes = [f"beside it: {', '.join(beside)}"] if beside else []
    if is_labelled:
        place = {name: label for label, name in enumerate(classes)}
        label_of = {folder: place[name] for folder, (name, _, _) in in_root.items()}
        labels = tuple(map(label_of.__getitem__, folders))
        counts = Counter(folders)
        in_classes = Counter[str]()
        for folder, (name, _, _) in in_root.items():
            in_classes[name] += counts[folder]
        notes += _notes_on_classes(classes, in_classes)
        deep = sum(counts[folder] for folder, (_, slash, _) in in_root.items() if slash)
        notes += [f"{deep} in folders inside class folders"] if deep else []
    tree.leave_out_all_but("image", "unread image")
    return Listing(
        path.name or path.resolve().name,
        source,
        len(files),
        encoded,
        files,
        labels=labels,
        class_names=tuple(classes) if is_labelled else (),
        unreadable=_unreadable(tree),
        notes=(*notes, *tree.left_out.notes()),
    )


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _unreadable(tree: Tree) -> tuple[UnreadableImageError, ...]:
    broken = [UnreadableImageError(link, "a link to nothing") for link in tree.broken]
    unread = [
        UnreadableImageError(file, f"{suffix_of(file)} is not read; convert it to PNG")
        for file in tree.files["unread image"]
    ]
    return (*broken, *unread)


def _refuse_loose(path: Path, tree: Tree) -> None:
    """Refuse images beside folders that hold images: do they belong to the set?"""
    loose = [Path(file) for file in tree.images if "/" not in tree.inside(file)]
    unclear = loose if len(loose) < len(tree.images) else []
    if tree.root != path:
        unclear += sorted(p for p in path.iterdir() if kind_of(p.name) == "image" and p.is_file())
    if unclear:
        raise InputError(
            f"data.path: {unclear[0].parent} holds images ({unclear[0].name}) beside folders that "
            "hold them; move them into one"
        )


def _notes_on_classes(classes: list[str], counts: Counter[str]) -> list[str]:
    """Tell of folders without images, and of classes that other systems would take for one."""
    empty = [name for name in classes if not counts[name]]
    notes = (
        [f"no images in {', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''}"] if empty else []
    )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(normalize("NFC", name).casefold(), []).append(name)
    notes += [
        f"{' and '.join(names)} count as several classes"
        for names in alike.values()
        if len(names) > 1
    ]
    return notes
