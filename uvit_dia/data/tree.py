"""The files of a folder and of all folders below it, those behind links included.

Files are strings here, not `Path`s: of a million files, making the objects would take most of the
time that a training needs to start.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from uvit_dia.data.file_kinds import is_of_the_system, kind_of
from uvit_dia.data.summary import LeftOut
from uvit_dia.system.errors import InputError

ADVICE = {
    "image": "data.name = 'folder' reads them",
    "parquet": "data.name = 'parquet' reads them",
    "archive": "unpack them first",
    "unfinished": "downloads that did not end",
}


@dataclass
class Tree:
    """What lies below a folder.

    Attributes:
        root: the folder.
        files: kind of file (see `file_kinds.kind_of`) -> paths, sorted folder by folder.
        broken: links whose target is not there.
        left_out: hidden files, files of the system, and what is no file.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    broken: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        # where a file's path in the root begins; "./" never stands before it
        self._start = 0 if self.root == Path() else len(str(self.root).rstrip("/")) + 1

    @property
    def images(self) -> list[str]:
        """Return the images, those of kinds that are not read among them."""
        unread = self.files["unread image"]
        return sorted(self.files["image"] + unread, key=_parts) if unread else self.files["image"]

    def inside(self, file: str) -> str:
        """Return the path of a file from the root on."""
        return file[self._start :]

    def leave_out_all_but(self, *kinds: str) -> None:
        """Count the files of other kinds as left out."""
        for kind in sorted(self.files.keys() - set(kinds)):
            for file in self.files[kind]:
                self.left_out.add(f"{kind} file(s)", Path(file).name)

    def contents(self) -> str:
        """Say what lies here, where something else was looked for."""
        parts = [
            f"{len(files)} {kind} file(s) such as {Path(files[0]).name}"
            + (f" ({ADVICE[kind]})" if kind in ADVICE else "")
            for kind, files in sorted(self.files.items())
            if files
        ]
        return f"it holds {', '.join(parts) if parts else 'no files'}"


def walk(root: Path) -> Tree:
    """List the files below a folder; a folder to which several links lead is entered once.

    Raises:
        InputError: naming a folder that cannot be read.
    """
    tree = Tree(root)
    folders, links = [str(root)], list[str]()
    entered = set[object]()
    while folders or links:  # links last, so that a folder is found where it lies
        folder = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(folder)
            if identity in entered:
                tree.left_out.add("link(s) to folders that are read anyway", Path(folder).name)
                continue
            entered.add(identity)
            _list(folder, tree, folders, links)
        except OSError as error:
            raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    for files in (*tree.files.values(), tree.broken):
        files.sort(key=_parts)
    return tree


def _parts(file: str) -> str:
    """Return what sorts files as their folders do: a/b.png before a.b/c.png."""
    return file.replace("/", "\0")


def _list(folder: str, tree: Tree, folders: list[str], links: list[str]) -> None:
    """Place what lies in a folder: plain images at once, for there may be a million."""
    images, others = tree.files["image"], []
    for entry in os.scandir(folder):
        name = entry.name
        if (
            kind_of(name) == "image"
            and not is_of_the_system(name)
            and entry.is_file(follow_symlinks=False)
        ):
            images.append(entry.path.removeprefix("./"))
        else:
            others.append(entry)
    for entry in sorted(others, key=lambda entry: entry.name):
        _place(entry, tree, folders, links)


def _place(entry: os.DirEntry, tree: Tree, folders: list[str], links: list[str]) -> None:
    path = entry.path.removeprefix("./")
    if is_of_the_system(entry.name):
        tree.left_out.add("hidden or of the system", entry.name)
    elif entry.is_dir():
        (links if entry.is_symlink() else folders).append(path)
    elif entry.is_file():
        tree.files[kind_of(entry.name)].append(path)
    elif entry.is_symlink() and not Path(path).exists():
        tree.broken.append(path)
    else:
        tree.left_out.add("neither file nor folder", entry.name)


def _identity(folder: str) -> object:
    status = Path(folder).stat()
    # some network file systems number nothing
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, links to folders among them, but for hidden ones; sorted.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        found = [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted(Path(entry.path) for entry in found if not is_of_the_system(entry.name))
