"""Writing sampled images: a folder of PNGs, or an .npz; files are whole or not there."""

import io
import json
import re
from pathlib import Path

import numpy as np
from torch import Tensor

from uvit_dia.data.image_grid import png_bytes
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically, write_json

PNG_NAME = re.compile(r"(\d{6,})\.png")
SYSTEM_NAMES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__macosx")


def write_npz(path: Path, images: Tensor) -> None:
    """Write images, (N, C, H, W) uint8, as `arr_0`, (N, H, W, C): ADM's layout."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, arr_0=images.permute(0, 2, 3, 1).numpy())
    write_atomically(path, buffer.getvalue())


class PngFolder:
    """A folder of sampled PNGs `000000.png`, `000001.png`, ...

    Its `samples.json` says what they were sampled from. Files that systems leave in folders, such
    as `.DS_Store`, are passed over.

    Args:
        path: the folder; made if it is not there.
        origin: what decides the images: checkpoint hash, sampler settings, block size.
        any_block: whether images that are there may be of another block size, which then holds.

    Raises:
        InputError: if the folder holds anything but images of this origin.
    """

    def __init__(self, path: Path, origin: dict[str, object], *, any_block: bool = False) -> None:
        self.path = path
        facts = path / "samples.json"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--output: cannot make the folder {path}: {error.strerror}"
            ) from error
        found = sorted(p.name for p in path.iterdir() if not is_of_the_system(p.name))
        self.origin = origin
        if facts.name in found:
            self.origin = self._agreed(self._read(facts), origin, any_block=any_block)
        elif found:
            raise InputError(
                f"--output: {path} holds other files, such as {found[0]}; name an empty folder"
            )
        stray = [name for name in found if name != facts.name and not PNG_NAME.fullmatch(name)]
        if stray:
            raise InputError(f"--output: {path} holds {stray[0]}, which is no sample; move it away")
        write_json(facts, self.origin)

    @property
    def block(self) -> int:
        """Images of a block, see `ImageSampler`."""
        block = self.origin["block"]
        assert isinstance(block, int)
        return block

    def _agreed(
        self, there: object, origin: dict[str, object], *, any_block: bool
    ) -> dict[str, object]:
        """Return what holds for the images that are there and those to come."""
        wanted = origin
        if any_block and isinstance(there, dict) and _is_block(there.get("block")):
            wanted = {**origin, "block": there["block"]}
        if there != wanted:
            raise InputError(
                f"--output: {self.path} holds samples of another checkpoint or other settings"
            )
        return wanted

    @staticmethod
    def _read(path: Path) -> object:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"--output: {path} is damaged: {error}") from error

    def missing(self, num_images: int) -> list[int]:
        """Return which of the first num_images images are not there yet."""
        there = {int(m[1]) for p in self.path.iterdir() if (m := PNG_NAME.fullmatch(p.name))}
        return [index for index in range(num_images) if index not in there]

    def write(self, indices: list[int], images: Tensor) -> None:
        """Write images, (n, C, H, W) uint8, under their indices."""
        for index, image in zip(indices, images, strict=True):
            write_atomically(self.path / f"{index:06d}.png", png_bytes(image))


def is_of_the_system(name: str) -> bool:
    """Say whether a name is hidden, or one that a system makes beside the user's files."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _is_block(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
