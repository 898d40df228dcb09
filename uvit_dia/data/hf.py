"""Image sets through Hugging Face's `datasets` library, which is optional.

`data.path` is a folder that `save_to_disk` wrote, a folder or file that the library's own builders
read (image folders, parquet, WebDataset shards), or an id on the Hub, each with ":CONFIG" behind it
where a set has several. Sets are read whole, so that the order of training and its resume stay
exact; `data.memory_map = True` keeps those that are larger than memory in a file, and of those that
are larger than the disk `hf_stream.py` takes the first images.
No code of a data set is run: the library's versions that are allowed do not run any.
"""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from uvit_dia.data.listing import EncodedImage, Listing, UnreadableImageError
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

TEST_SPLITS = ("test", "validation", "valid")  # the first that there is
IMAGE, LABEL = "image", "label"  # columns of what is kept of a stream
SAVED_BY_THE_LIBRARY = ("dataset_dict.json", "state.json")


def list_hf(path: str, split: str) -> Listing | None:
    """List the images of a split.

    Args:
        path: as `data.path`.
        split: "train" or "test".

    Returns:
        The images; None where there is no test split.

    Raises:
        InputError: if the library is missing, it cannot read the set, or there is no column of
            images.
    """
    table = split_of(load(path), split, path)
    if table is None:
        return None
    import datasets

    column = image_column(table, path)
    labels, class_names = _labels(table)
    table = table.cast_column(column, datasets.Image(decode=False))

    def encoded() -> Iterator[EncodedImage]:
        for row in range(len(table)):
            origin = f"{path}:{row}"
            yield EncodedImage(origin, partial(_bytes, table, row, column, origin))

    files = tuple(Path(each["filename"]) for each in table.cache_files)
    name = Path(path.partition(":")[0]).name
    return Listing(name, f"hf {path}, {split}", len(table), encoded, files, labels, class_names)


def load(path: str, *, streaming: bool = False) -> Any:  # noqa: ANN401, one of the library's sets
    """Open a set with all its splits.

    Raises:
        InputError: if the library is missing, or cannot read the set.
    """
    if find_spec("datasets") is None:
        raise InputError("data.name = 'hf' needs the package datasets; pip install 'uvit_dia[hf]'")
    import datasets

    place, _, config = path.partition(":")
    folder = Path(place).expanduser()
    try:
        if any((folder / name).is_file() for name in SAVED_BY_THE_LIBRARY):
            saved = datasets.load_from_disk(str(folder))
            return _streamed(saved) if streaming else saved
        source = str(folder) if folder.exists() else place
        return datasets.load_dataset(source, config or None, streaming=streaming)
    except Exception as error:  # the library and the Hub raise many kinds
        reason = clip(" ".join(str(error).split()), 140)
        raise InputError(f"data.path: datasets cannot read {path}: {reason}") from error


def _streamed(saved: Any) -> Any:  # noqa: ANN401
    if not isinstance(saved, dict):
        return saved.to_iterable_dataset()
    return {name: table.to_iterable_dataset() for name, table in saved.items()}


def split_of(found: Any, split: str, path: str) -> Any:  # noqa: ANN401
    """Return "train" or "test" of a set; None where there is no test split.

    Raises:
        InputError: if there is no training split.
    """
    if not isinstance(found, dict):
        return found if split == "train" else None
    wanted = ("train",) if split == "train" else TEST_SPLITS
    name = next((each for each in wanted if each in found), None)
    if name is None and split == "train":
        raise InputError(f"data.path: {path} has no split train; it has {', '.join(found)}")
    return None if name is None else found[name]


def image_column(table: Any, path: str) -> str:  # noqa: ANN401
    """Return the one column of images.

    Raises:
        InputError: if there are none or several; it names the columns.
    """
    import datasets

    features = table.features or {}  # of some streams nobody knows them
    names = [n for n, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(names) != 1:
        held = ", ".join(f"{n} {type(f).__name__}" for n, f in features.items()) or "not known"
        raise InputError(
            f"data.path: {path} must have one column of images, found {len(names)}; its columns "
            f"are {clip(held, 120)}"
        )
    return names[0]


def label_column(table: Any) -> str | None:  # noqa: ANN401
    """Return the one column of classes, or "label" among several; None if it is not clear."""
    import datasets

    names = [n for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)]
    if len(names) > 1 and LABEL in names:
        return LABEL
    return names[0] if len(names) == 1 else None


def _labels(table: Any) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:  # noqa: ANN401
    """Return the labels of the column of classes, and their names."""
    column = label_column(table)
    if column is None:
        return None, ()
    labels = tuple(-1 if label is None else int(label) for label in table[column])
    return labels, tuple(table.features[column].names)


def _bytes(table: Any, row: int, column: str, origin: str) -> bytes:  # noqa: ANN401
    found = table[row][column] or {}
    content, file = found.get("bytes"), found.get("path")
    try:
        if content is None and file:
            content = Path(file).read_bytes()
    except OSError as error:
        raise UnreadableImageError(origin, str(error.strerror)) from error
    if not content:
        raise UnreadableImageError(origin, "no image")
    return content
