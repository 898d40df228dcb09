"""One image: the pixels that a viewer shows, in the wanted size, or what was found instead."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from tests.support.image_sets import (
    assert_same,
    channels_first,
    encoded,
    load,
    must_load,
    pixels,
    png_of_size,
    write_image,
)
from uvit_dia.data import decoded_set
from uvit_dia.data.decoding import MAX_PIXELS, DecodedImage, ImageFormat, decode
from uvit_dia.data.file_kinds import IMAGE_FORMATS, what_it_is
from uvit_dia.data.listing import UnreadableImageError
from uvit_dia.system.errors import InputError

RGB = ImageFormat(8, 3)
GREY = ImageFormat(8, 1)
SCALED = ImageFormat(8, 3, resize=True)


def shown(decoded: DecodedImage) -> np.ndarray:
    """Return the pixels as (H, W, C) int64."""
    return decoded.pixels.transpose(1, 2, 0).astype(int)


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = pixels(0, channels=1)
    path = write_image(tmp_path / "grey/a.png", grey)
    assert_same(must_load("folder", path.parent, in_chans=1).images, channels_first(grey))
    in_colour = must_load("folder", path.parent, in_chans=3).images
    assert_same(in_colour, channels_first(grey).expand(1, 3, 8, 8))
    path = write_image(tmp_path / "colour/a.png", pixels(1))
    luma = (pixels(1).astype(float) @ [0.299, 0.587, 0.114]).round()  # ITU-R BT.601
    in_grey = must_load("folder", path.parent, in_chans=1).images
    torch.testing.assert_close(in_grey[0, 0].double(), torch.from_numpy(luma), rtol=0, atol=1)


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    with pytest.raises(InputError, match=r"model\.in_chans = 2.*1 \(grey\) or 3"):
        load("folder", tmp_path, in_chans=2)


def test_another_size_is_refused_without_resize(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    path = write_image(tmp_path / "b.png", pixels(1, side=9))
    message = rf"{re.escape(str(path))} is 9x9; model\.img_size = 8 \(data\.resize = True"
    with pytest.raises(InputError, match=message):
        load("folder", tmp_path)


def test_resize_scales_the_shorter_side_and_crops_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:48], wide[:, 48:64] = (255, 0, 0), (0, 0, 255)
    write_image(tmp_path / "a.png", wide)
    write_image(tmp_path / "b.png", wide.transpose(1, 0, 2).copy())
    write_image(tmp_path / "c.png", pixels(0))  # of the right size: not touched
    images = must_load("folder", tmp_path, resize=True).images
    assert images.shape == (3, 3, 8, 8)
    red, green, blue = images[0].double()
    assert (green == 0).all()
    assert (red[:, 1:3] > 250).all() and (red[:, 5:] < 5).all()
    assert (blue[:, 5:7] > 250).all() and (blue[:, :3] < 5).all()
    torch.testing.assert_close(images[1].transpose(1, 2), images[0], rtol=0, atol=1)
    assert_same(images[2:], channels_first(pixels(0)))


@pytest.mark.parametrize("content", [b"", b"hello", encoded(pixels(0))[:-60]])
def test_unreadable_images_are_refused(tmp_path: Path, content: bytes) -> None:
    path = write_image(tmp_path / "a.png", content)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is no readable image"):
        load("folder", tmp_path)


@pytest.mark.parametrize("side", [14_143, 60_000])
def test_an_absurdly_large_image_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    """These files end after ten pixels: the message would be another one if they were decoded."""
    path = write_image(tmp_path / "a.png", png_of_size(side, side))
    message = f"{re.escape(str(path))}.*{side * side} pixels; at most {MAX_PIXELS} are read"
    with pytest.raises(InputError, match=message):
        load("folder", tmp_path, resize=True)


def test_a_set_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    write_image(tmp_path / "b.png", b"never decoded")
    monkeypatch.setattr(decoded_set, "MAX_MEMORY_BYTES", 2 * 3 * 8 * 8 - 1)
    with pytest.raises(InputError, match=r"data\.path: 2 images .* 384 bytes; at most 383"):
        load("folder", tmp_path)


# ---------------------------------------------------------------- as a viewer shows it


@pytest.mark.faults
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("image_format", [ImageFormat(64, 3), SCALED], ids=["kept", "scaled"])
def test_images_are_upright(orientation: int, kind: str, image_format: ImageFormat) -> None:
    image = Image.fromarray(np.kron(pixels(1, side=4), np.ones((16, 16, 1), dtype=np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(image, kind, exif=exif, **quality, **lossless)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    side = image_format.img_size
    expected = np.asarray(upright.resize((side, side), Image.Resampling.LANCZOS)).astype(int)
    found = decode(content, "x", image_format)
    assert np.abs(shown(found) - expected).max() <= 2
    if kind != "TIFF":  # whose reader turns it
        assert ("turned upright" in found.remarks) == (orientation > 1)


@pytest.mark.faults
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0", b"junk", bytes(40)])
def test_a_damaged_exif_is_none(exif: bytes) -> None:
    content = encoded(pixels(0), "PNG", exif=exif)
    assert (shown(decode(content, "x", RGB)) == pixels(0)).all()


def transparent(mode: str) -> tuple[Image.Image, dict]:
    """Return an image whose left half is visible and black, and whose right half is not and red."""
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:, :4, 3] = 255
    rgba[:, 4:, 0] = 200
    image = Image.fromarray(rgba)
    if mode == "LA":
        return image.convert("LA"), {}
    if mode == "P":
        return image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2), {}
    if mode in ("RGB", "L"):
        hidden = (200, 0, 0) if mode == "RGB" else image.convert("L").getpixel((7, 0))
        return image.convert("RGB").convert(mode), {"transparency": hidden}
    return image, {}


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#102030", (16, 32, 48))],
)
@pytest.mark.parametrize("image_format", [(8, 3), (8, 1), (4, 3)], ids=["RGB", "grey", "scaled"])
def test_transparent_parts_are_of_one_plain_colour(
    mode: str, background: str, colour: tuple[int, ...], image_format: tuple[int, int]
) -> None:
    image, settings = transparent(mode)
    if mode == "P":
        settings = {"transparency": image.getpixel((7, 0))}
    side, channels = image_format
    wanted = ImageFormat(side, channels, resize=True, background=background)
    found = decode(encoded(image, "PNG", **settings), "x", wanted)
    expected = np.array(colour if channels == 3 else [round(np.dot(colour, (0.299, 0.587, 0.114)))])
    assert np.abs(shown(found)[:, -1] - expected).max() <= 1
    assert shown(found)[:, 0].max() <= (0 if side == 8 else 6)
    assert f"transparent, on {background}" in found.remarks


@pytest.mark.faults
def test_half_transparent_parts_are_mixed_with_the_background() -> None:
    rgba = np.full((8, 8, 4), (200, 100, 0, 51), dtype=np.uint8)  # a fifth
    found = decode(encoded(rgba), "x", RGB)
    assert np.abs(shown(found) - (244, 224, 204)).max() <= 1


@pytest.mark.faults
def test_an_opaque_alpha_channel_changes_nothing() -> None:
    """Scaled or not, pixels and remarks are those of the same image without it."""
    rgb = pixels(3, side=31)
    opaque = np.dstack([rgb, np.full((31, 31), 255, dtype=np.uint8)])
    one, two = (decode(encoded(image), "x", SCALED) for image in (rgb, opaque))
    assert (one.pixels == two.pixels).all()
    assert one.remarks == two.remarks == ("scaled and cropped",)


@pytest.mark.faults
@pytest.mark.parametrize("background", ["red", "#12345", "#12345g", "", "white "])
def test_other_backgrounds_are_refused(background: str) -> None:
    with pytest.raises(InputError, match=r"data\.background = .*white, black or #rrggbb"):
        ImageFormat(8, 3, background=background)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_scaled_to_8(kind: str) -> None:
    """Pillow itself would clip them: all but the darkest would be white."""
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    settings = {"irreversible": False} if kind == "JPEG2000" else {}
    if kind == "PPM":  # older Pillows read 16 bits of it, but do not write them
        content = b"P5 8 8 65535\n" + levels.astype(">u2").tobytes()
    else:
        content = encoded(Image.fromarray(levels), kind, **settings)
    found = decode(content, "x", GREY)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels[0] == (levels / 257).round()).all()


@pytest.mark.faults
def test_a_transparent_level_of_16_bits_is_transparent() -> None:
    levels = np.full((8, 8), 1000, dtype=np.uint16)
    levels[:, 4:] = 40_000
    plain = encoded(Image.fromarray(levels))
    position = plain.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 40_000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    found = decode(plain[:position] + chunk + plain[position:], "x", GREY)
    assert (found.pixels[0, :, :4] == 4).all()
    assert (found.pixels[0, :, 4:] == 255).all()


@pytest.mark.faults
@pytest.mark.parametrize(("mode", "kind"), [("F", "TIFF"), ("I", "TIFF")])
def test_other_depths_are_refused(mode: str, kind: str) -> None:
    content = encoded(Image.new(mode, (8, 8)), kind)
    with pytest.raises(UnreadableImageError, match=f"mode {mode}; 8 or 16 bits a channel are read"):
        decode(content, "x", RGB)


@pytest.mark.faults
def test_cmyk_is_read_as_pillow_converts_it() -> None:
    cmyk = Image.fromarray(pixels(2, channels=4), mode="CMYK")
    content = encoded(cmyk, "JPEG", quality=100, subsampling=0)  # inverted, as Adobe's programs do
    assert b"Adobe" in content
    expected = np.asarray(cmyk.convert("RGB")).astype(int)
    assert np.abs(shown(decode(content, "x", RGB)) - expected).max() <= 6


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read_and_told(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    found = decode(content, "x", RGB)
    assert (shown(found) == (255, 0, 0)).all()
    assert found.remarks == ("of several frames, the first one read",)
    assert decode(encoded(frames[0], kind, **lossless), "x", RGB).remarks == ()


@pytest.mark.faults
@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_all_kinds_are_read(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    image = Image.fromarray(np.full((16, 16, 3), (40, 120, 200), dtype=np.uint8))
    found = decode(encoded(image, kind), "x", ImageFormat(16, 3))
    assert np.abs(shown(found) - (40, 120, 200)).max() <= 6


@pytest.mark.faults
def test_colour_that_becomes_grey_is_told() -> None:
    assert decode(encoded(pixels(0)), "x", GREY).remarks == ("in colour, made grey",)
    alike = np.repeat(pixels(0, channels=1)[..., None], 3, axis=2)
    assert decode(encoded(alike), "x", GREY).remarks == ()


# ---------------------------------------------------------------- photos


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_to_size(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than an eighth of a side is decoded, and the pixels are those of the whole photo."""
    whole = Image.radial_gradient("L").resize((1024, 1536)).convert(mode)
    content = encoded(whole, "JPEG", quality=95)
    loaded: list[tuple[int, int]] = []
    monkeypatch.setattr(
        ImageOps,
        "fit",
        lambda image, *a, fit=ImageOps.fit, **k: loaded.append(image.size) or fit(image, *a, **k),
    )
    found = decode(content, "x", ImageFormat(32, 3, resize=True))
    assert loaded == [(128, 192)]
    exact = ImageOps.fit(Image.open(io.BytesIO(content)).convert("RGB"), (32, 32), method=1)
    assert np.abs(shown(found) - np.asarray(exact)).max() <= 4


@pytest.mark.faults
def test_a_jpeg_of_less_than_six_times_the_size_is_decoded_in_full() -> None:
    content = encoded(pixels(1, side=47), "JPEG", quality=95)
    exact = ImageOps.fit(Image.open(io.BytesIO(content)), (8, 8), method=1)
    assert (shown(decode(content, "x", SCALED)) == np.asarray(exact)).all()


@pytest.mark.faults
def test_photos_of_200_megapixels_are_read_without_a_warning() -> None:
    content = encoded(Image.new("1", (20_000, 10_000)), "TIFF", compression="group4")
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(content, "x", SCALED)
    assert found.pixels.shape == (3, 8, 8)
    assert limit == Image.MAX_IMAGE_PIXELS  # which others may rely on
    content = encoded(Image.new("1", (20_001, 10_000)), "TIFF", compression="group4")
    with pytest.raises(UnreadableImageError, match="200010000 pixels; at most 200000000 are read"):
        decode(content, "x", SCALED)


# ---------------------------------------------------------------- what was found


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (bytes(600), "only zero bytes"),
        (b"\n <!DOCTYPE HTML><html><head>", "an HTML page"),
        (b"<?xml version='1.0'?><svg width='8'>", "an SVG"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer; git lfs pull fetches"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"PK\x03\x04" + bytes(9), "a zip archive"),
        (b"PAR1" + bytes(9), "a parquet file"),
        (b"\0\5\26\7macOS", "an AppleDouble file of a Mac"),
        (b"not found\nsorry", "text that begins with 'not found sorry'"),
        (b"\x01\x02\xfe\xff" * 9, "bytes 01 02 fe ff 01 02 fe ff"),
        (encoded(pixels(0))[:20], "a PNG, damaged"),
        (encoded(pixels(0))[:-60], "a PNG, damaged: image file is truncated"),
        (encoded(pixels(0, side=40), "JPEG")[:-200], "a JPEG, damaged: image file is truncated"),
    ],
)
def test_what_lies_in_place_of_an_image_is_told(content: bytes, said: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode(content, "cat/a.png", SCALED)
    assert str(caught.value).startswith(f"cat/a.png is no readable image: {said}")
    assert "BytesIO" not in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("start", [b" ", b"\n\n", b"\xef\xbb\xbf<html>", b"RIFF", b"ftyp"])
def test_any_start_of_a_file_is_told(start: bytes) -> None:
    assert what_it_is(start)
