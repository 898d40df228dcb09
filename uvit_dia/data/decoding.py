"""One image's bytes to pixels of the wanted size: upright, and on a plain background."""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from uvit_dia.config.rules import colour
from uvit_dia.data.file_kinds import DECODED_KINDS, IMAGE_FORMATS, what_it_is
from uvit_dia.data.listing import Listing, UnreadableImageError, WrongSizeError
from uvit_dia.system.errors import InputError

MAX_PIXELS = 200_000_000  # of one image: the largest cameras have 150 million
DRAFT_SCALE = 3  # a JPEG is decoded to this many times the wanted size or more, then scaled
DEFAULT_BACKGROUND = "white"
FORMATS_WITH_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # in others, frames are previews
# where an image is damaged; Pillow promises no list
WHAT_PILLOW_RAISES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    Image.DecompressionBombError,
)
ROWS_AT_A_TIME = 256  # that are scaled from 16 bits: the whole image would take much memory
ORIENTATION = 0x0112  # the tag of EXIF
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageFormat:
    """What every image of a set becomes.

    Attributes:
        img_size: height and width in pixels.
        in_chans: 1 for grey, 3 for RGB.
        resize: whether images of another size are scaled (shorter side, Lanczos) and cropped in the
            middle.
        background: colour behind transparent parts: "white", "black" or "#rrggbb".

    Raises:
        InputError: for other channels or no such colour.
    """

    img_size: int
    in_chans: int
    resize: bool = False
    background: str = DEFAULT_BACKGROUND

    def __post_init__(self) -> None:
        if self.in_chans not in (1, 3):
            raise InputError(
                f"model.in_chans = {self.in_chans}; image files give 1 (grey) or 3 (RGB)"
            )
        if not colour().fits(self.background):
            raise InputError(
                f"data.background = {self.background!r}; allowed is {colour().allowed}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.in_chans, self.img_size, self.img_size


@dataclass(frozen=True)
class DecodedImage:
    """An image ready for training.

    Attributes:
        pixels: (C, H, W) uint8.
        remarks: what was done to it beyond decoding, such as "scaled and cropped".
    """

    pixels: np.ndarray
    remarks: tuple[str, ...]


@contextmanager
def our_limits() -> Iterator[None]:
    """Let Pillow refuse images above MAX_PIXELS, and not warn of those that it can read."""
    before = Image.MAX_IMAGE_PIXELS
    # above this many Pillow warns, above twice as many it refuses
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def decode(content: bytes, origin: str, image_format: ImageFormat) -> DecodedImage:
    """Decode an image file.

    Args:
        content: the whole file.
        origin: what messages call it.
        image_format: what it becomes.

    Raises:
        UnreadableImageError: if it is no image, damaged, or of more than MAX_PIXELS pixels.
        InputError: if it has another size and may not be scaled.
    """
    with our_limits():
        try:
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                return _decode(image, origin, image_format)
        except InputError:
            raise
        except WHAT_PILLOW_RAISES as error:
            raise UnreadableImageError(origin, _reason(error, content)) from error


def first_side(listing: Listing) -> int:
    """Return the side of the first image of a listing, in pixels; its pixels are not decoded.

    Raises:
        UnreadableImageError: if it is no image.
        WrongSizeError: if it is not square.
    """
    first = next(listing.encoded())
    content = first.read()
    with our_limits():
        try:
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                width, height = image.size
        except WHAT_PILLOW_RAISES as error:
            raise UnreadableImageError(first.origin, _reason(error, content)) from error
    if width != height:
        raise WrongSizeError(f"{first.origin} is {width}x{height}; only square images are read")
    return width


@cache
def _formats() -> tuple[str, ...]:
    """Return those of our formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _decode(image: Image.Image, origin: str, image_format: ImageFormat) -> DecodedImage:
    side, remarks = image_format.img_size, []
    if image.format in FORMATS_WITH_FRAMES and getattr(image, "is_animated", False):
        remarks.append("of several frames, the first one read")
    _check_size(image, origin, image_format)
    if image.size != (side, side):
        remarks.append("scaled and cropped")
        image.draft(None, (DRAFT_SCALE * side, DRAFT_SCALE * side))
    image.load()
    _check_size(image, origin, image_format)  # some kinds know better only now
    orientation = _orientation(image)
    sized: Image.Image = _with_8_bits(image, origin)
    if sized.size != (side, side):
        sized = ImageOps.fit(sized, (side, side), method=Image.Resampling.LANCZOS)
    if orientation in TRANSPOSITIONS:
        remarks.append("turned upright")
        sized = sized.transpose(TRANSPOSITIONS[orientation])
    if sized.mode == "RGBA":
        if sized.getchannel("A").getextrema() != (255, 255):
            remarks.append(f"transparent, on {image_format.background}")
        behind = Image.new("RGBA", sized.size, ImageColor.getrgb(image_format.background))
        sized = Image.alpha_composite(behind, sized)
    rgb = np.asarray(sized.convert("RGB"))
    if image_format.in_chans == 3:
        return DecodedImage(rgb.transpose(2, 0, 1), tuple(remarks))
    if (rgb != rgb[..., :1]).any():
        remarks.append("in colour, made grey")
    return DecodedImage(np.asarray(sized.convert("L"))[None], tuple(remarks))


def _check_size(image: Image.Image, origin: str, image_format: ImageFormat) -> None:
    side = image_format.img_size
    if image.size != (side, side) and not image_format.resize:
        size = f"{image.width}x{image.height}"
        raise WrongSizeError(f"{origin} is {size}; model.img_size = {side}")


def _orientation(image: Image.Image) -> int:
    """Return the orientation by EXIF or XMP; 1 (upright) where they are missing or damaged."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except WHAT_PILLOW_RAISES:  # a viewer shows such an image as it lies
        return 1


def _with_8_bits(image: Image.Image, origin: str) -> Image.Image:
    """Return the image as L, RGB, or RGBA where it has transparent parts."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _scale_16_bits(image)
    if image.mode in ("I", "F"):
        raise UnreadableImageError(origin, f"mode {image.mode}; 8 or 16 bits a channel are read")
    mode = "RGBA" if image.has_transparency_data else "L" if image.mode == "L" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _scale_16_bits(image: Image.Image) -> Image.Image:
    """Map 0 .. 65535 to 0 .. 255, rounded; Pillow would clip."""
    values = np.asarray(image)
    levels = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), ROWS_AT_A_TIME):
        part = values[top : top + ROWS_AT_A_TIME].clip(0, 65535).astype(np.uint32)
        levels[top : top + ROWS_AT_A_TIME] = (part + 128) // 257  # 65535 is 255 * 257
    grey = Image.fromarray(levels)
    if "transparency" not in image.info:
        return grey
    alpha = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha)).convert("RGBA")


def _reason(error: Exception, content: bytes) -> str:
    """Say what was found in place of an image; Pillow's own words name an object in memory."""
    found = what_it_is(content[:512])
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        return f"{pixels[1] if pixels else 'too many'} pixels; at most {MAX_PIXELS} are read"
    if isinstance(error, UnidentifiedImageError):
        return f"{found}, damaged" if found in DECODED_KINDS else found
    return f"{found}, damaged: {' '.join(str(error).split())[:80] or type(error).__name__}"
