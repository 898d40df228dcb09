"""The images in a zip archive, read without unpacking it to disk."""

from functools import partial
from pathlib import Path, PurePosixPath

from uvit_dia.data.archives import checked_members, read_member
from uvit_dia.data.file_kinds import is_of_the_system, kind_of
from uvit_dia.data.listing import EncodedImage, Listing
from uvit_dia.system.errors import InputError


def list_zip(path: Path, flag: str, *, has_classes: bool = False) -> Listing:
    """List the images of an archive, in the order of their names.

    Args:
        path: the archive.
        flag: that it was given to, for messages.
        has_classes: whether the folders in it are classes, where every image lies in one; else they
            mean nothing.

    Raises:
        InputError: if it is not to be read (see `checked_members`), or holds no images.
    """
    names = [
        member.filename
        for member in checked_members(path, flag)
        if not any(map(is_of_the_system, PurePosixPath(member.filename).parts))
    ]
    images = [name for name in names if kind_of(name) == "image"]
    unread = [name for name in names if kind_of(name) == "unread image"]
    if unread:
        raise InputError(f"{flag}: {path}:{unread[0]} is of a kind that is not read; make it a PNG")
    if not images:
        raise InputError(
            f"{flag}: {path} holds no images (.png, .jpg, ...), but {len(names)} other files"
        )
    others = len(names) - len(images)
    encoded = [
        EncodedImage(f"{path}:{name}", partial(read_member, path, name, flag)) for name in images
    ]
    folders = [PurePosixPath(name).parent.name for name in images]
    classes = tuple(sorted(set(folders))) if has_classes and all(folders) else ()
    return Listing(
        path.stem,
        f"archive {path}",
        len(images),
        lambda: iter(encoded),
        (path,),
        labels=tuple(classes.index(folder) for folder in folders) if classes else None,
        class_names=classes,
        notes=(f"{others} other files left out",) if others else (),
    )
