"""Whether an image file can be trained on: there, whole, and what its annotations say it is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from gdetkd.datasets.report import InvalidAnnotation

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP")  # what OpenCV reads as well
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE = 258  # a TIFF tag
ORIENTATION = 274  # an Exif tag; 1 = upright, from 5 width and height change places
# Pixels, which take up to 4 bytes decoded, in each of several threads. A larger PNG is read without
# decoding, any other larger image is decoded while no other is.
LARGE = 2**23
_LARGE = threading.Lock()
REMARKS = {
    ("L", "1"): ("gray image", "read as three equal channels"),
    ("LA", "La", "RGBA", "RGBa", "PA"): ("RGBA image", "read without its transparency"),
    ("P",): ("palette image", "read as the colors that its palette holds"),
    ("CMYK",): ("CMYK image", "converted to RGB when it is read"),
}


@dataclass(frozen=True)
class Picture:
    """An image file as MMDetection's loader, OpenCV, gives it.

    width, height: Pixels as it is loaded: turned, if the Exif tag says so.
    remarks: What to know about the file: kind and text.
    turn: The Exif orientation that the loader follows, 1 (upright) to 8.
    digest: Of the file's bytes: equal for copies of one file, whatever their names.
    """

    width: int
    height: int
    remarks: tuple[tuple[str, str], ...] = ()
    turn: int = 1
    digest: bytes = b""

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pixels in the file, before they are turned."""
        size = (self.width, self.height)
        return size[::-1] if self.turn >= 5 else size


def examine(path: str) -> Picture:
    """Read an image to its end.

    JPEGs are decoded at an eighth of their size, which reads every byte in a fraction of the time.

    Raises:
        InvalidAnnotation: It is missing, broken, in a format that OpenCV does not read, or has 16
            bits a channel, of which MMDetection's loader would drop the lower 8.
    """
    try:
        if not os.path.isfile(path):
            os.stat(path)  # says why, for instance that links form a loop
            raise InvalidAnnotation("no image", "expected a file, found a folder or a device")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidAnnotation):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InvalidAnnotation("no image", f"cannot be opened: {reason}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                picture = _describe(image, path)
                large = image.width * image.height > LARGE
                if large and image.format == "PNG" and not image.info.get("interlace"):
                    _read_png(path)
                    return picture
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                with _LARGE if large else contextlib.nullcontext():
                    image.load()
                    image.close()
    except InvalidAnnotation:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise InvalidAnnotation("broken image", f"{type(error).__name__}: {error}") from error
    return picture


def _read_png(path: str) -> None:
    """Read a PNG to its end in little memory: the checksums of its parts, and all of its rows."""
    unpack, rows, header = zlib.decompressobj(), 0, b""
    with open(path, "rb") as file:
        file.seek(8)
        kind = b""
        while kind != b"IEND":
            length, kind = struct.unpack(">I4s", file.read(8))
            checksum = zlib.crc32(kind)
            while length:
                data = file.read(min(length, 2**16))
                if not data:
                    raise OSError("image file is truncated")
                length, checksum = length - len(data), zlib.crc32(data, checksum)
                header = header or data
                while kind == b"IDAT" and data:
                    rows += len(unpack.decompress(data, 2**20))
                    data = unpack.unconsumed_tail
            if struct.pack(">I", checksum) != file.read(4):
                raise OSError(f"broken PNG file (checksum of {kind!r})")
    rows += len(unpack.flush())
    width, height, bits, color = struct.unpack(">IIBB", header[:10])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    if rows != height * (1 + -(-width * bits * channels // 8)):  # a byte before each row
        raise OSError("image file is truncated")


def examine_all(paths: Iterable[str]) -> Iterator[Picture | InvalidAnnotation]:
    """`examine` of every path in its order, by threads (Pillow decodes without the GIL)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(_examined, paths)


def _examined(path: str) -> Picture | InvalidAnnotation:
    try:
        return examine(path)
    except InvalidAnnotation as problem:
        return problem


def _describe(image: Image.Image, path: str) -> Picture:
    if image.format not in FORMATS:
        raise InvalidAnnotation(
            "image format", f"expected one of {', '.join(FORMATS)}, got {image.format}"
        )
    bits = _bits(image, path)
    if image.mode in WIDE_MODES or bits > 8:
        raise InvalidAnnotation(
            "16-bit image",
            f"expected 8 bits a channel, got {bits} (mode {image.mode}): the loader "
            "would keep the upper 8; scale the values yourself",
        )
    remarks = [remark for modes, remark in REMARKS.items() if image.mode in modes]
    turn = _orientation(image)
    if turn != 1 and image.format == "TIFF":
        text = f"orientation {turn} in a TIFF, which OpenCV may turn or not: save it upright"
        raise InvalidAnnotation("turned image", text)
    if turn != 1:
        remarks.append(("turned image", f"Exif orientation {turn}: the loader turns it"))
    size = image.size[::-1] if turn >= 5 else image.size
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
    return Picture(*size, tuple(remarks), turn, digest)


def _orientation(image: Image.Image) -> int:
    """The orientation tag of the Exif block itself: OpenCV follows no other, such as XMP's."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
    except Exception:  # a damaged block is none, to OpenCV as well
        return 1
    turn = image.tag_v2.get(ORIENTATION, 1) if image.format == "TIFF" else exif.get(ORIENTATION, 1)
    return turn if turn in range(2, 9) else 1


def _bits(image: Image.Image, path: str) -> int:
    """Bits a channel; Pillow hides 16 bits behind the mode RGB."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (8,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode in WIDE_MODES else 8
