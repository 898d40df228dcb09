"""What the name of an output asks for; needs no torch, so that a wrong name is told at once."""

from pathlib import Path

from uvit_dia.system.errors import InputError

GRID, ARRAY, FOLDER, ANIMATION = "grid", "array", "folder", "animation"
KINDS = {".png": GRID, ".npz": ARRAY, ".gif": ANIMATION, ".webp": ANIMATION}
# Names of files, not of folders; what they hold is not written here.
OTHER_FILES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".jxl", ".avif", ".heic"),
    *(".bmp", ".tif", ".tiff", ".ppm", ".svg", ".pdf", ".mp4"),
    *(".npy", ".pt", ".pth", ".safetensors", ".parquet", ".h5", ".zip", ".tar", ".gz", ".tgz"),
)


def output_kind(path: Path) -> str:
    """Return what is written to a path: `GRID`, `ARRAY`, `ANIMATION` or `FOLDER`.

    The case of a suffix does not matter.

    Raises:
        InputError: for the name of another kind of file. JPEG is refused with the rest: a metric of
            images that a codec has changed measures the codec too.
    """
    suffix = path.suffix.lower()
    if suffix in OTHER_FILES:
        raise InputError(
            f"--output {path}: {suffix} is not written; allowed is a .png (one grid), an .npz, a "
            ".gif or .webp (the grid as it forms), or a folder for PNGs"
        )
    return KINDS.get(suffix, FOLDER)
