"""What a file is: by its name, to list folders, and by its first bytes, if it cannot be read."""

# What Pillow reads as a still image, with the suffixes by which a folder's images are found. EPS,
# PDF and WMF are not among them: other programs would run to draw them.
IMAGE_FORMATS = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .mpo",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "TIFF": ".tif .tiff",
    "AVIF": ".avif .avifs",
    "PPM": ".ppm .pgm .pbm .pnm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "QOI": ".qoi",
    "PSD": ".psd",
    "ICO": ".ico",
    "PCX": ".pcx",
    "SGI": ".sgi .rgb .rgba .bw",
    "DDS": ".dds",
    "TGA": ".tga .icb .vda .vst",  # last: its files have no signature
}
SUFFIXES = {
    "image": " ".join(IMAGE_FORMATS.values()),
    "unread image": ".heic .heif .hif .jxl .svg .svgz .exr .hdr .pfm .fits .icns .cur .ras .xcf "
    ".wmf .emf .eps .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw",
    "parquet": ".parquet .pq",
    "archive": ".zip .tar .gz .tgz .bz2 .tbz2 .xz .txz .zst .7z .rar",
    "unfinished": ".part .partial .crdownload .download .incomplete .tmp",
}
_KINDS = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
SYSTEM_NAMES = (
    "__macosx",
    "__pycache__",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
)

SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer; git lfs pull fetches the file itself"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"8BPS", "a PSD"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\x05\x16\x07", "an AppleDouble file of a Mac"),
    (b"PAR1", "a parquet file"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)
BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"qt  ": "a video"}  # of files in ISO boxes
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
DECODED_KINDS = ("a PNG", "a JPEG", "a GIF", "a BMP", "a TIFF", "a WebP", "a PSD", "an AVIF")


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, whatever blanks stand behind it."""
    stem, _, suffix = name.rstrip().rpartition(".")
    is_one = suffix and stem and not stem.endswith("/") and "/" not in suffix
    return f".{suffix.lower()}" if is_one else ""


def is_of_the_system(name: str) -> bool:
    """Return whether a name is hidden, or one that a system makes beside the user's files."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def kind_of(name: str) -> str:
    """Return what a file name promises: a key of SUFFIXES, or "other"."""
    return _KINDS.get(suffix_of(name), "other")


def what_it_is(start: bytes) -> str:
    """Say what begins with these bytes (512 suffice), such as "an HTML page"."""
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "only zero bytes"
    for signature, name in SIGNATURES:
        if start.startswith(signature):
            return name
    if start[:4] == b"RIFF":
        return "a WebP" if start[8:12] == b"WEBP" else "sound or video"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "a HEIC image" if brand in HEIF_BRANDS else BRANDS.get(brand, "a video")
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in head:
        return "an HTML page"
    if head.startswith((b"<?xml", b"<svg")):
        return "an SVG" if b"<svg" in head else "XML"
    try:
        text = start[:32].decode("ascii")
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"text that begins with {' '.join(text.split())[:24]!r}"
    return f"bytes {start[:8].hex(' ')} ..."
