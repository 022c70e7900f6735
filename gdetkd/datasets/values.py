"""Values out of files: read and checked, or refused with what was expected and what came."""

from __future__ import annotations

import codecs
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdetkd.datasets.report import InvalidAnnotation, shown

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jfif", ".jpe")
UNREAD_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".tga", ".psd", ".dng", ".svg")

FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
IGNORED = "ignore is set: kept as iscrowd, neither trained on nor counted"


def finite(value: object, what: str) -> float:
    """The value as a number; raises InvalidAnnotation if it is none, NaN or infinite."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, str | bool):
        raise InvalidAnnotation("no number", f"{what}: expected a number, got {shown(value)}")
    if not math.isfinite(number):
        raise InvalidAnnotation("not finite", f"{what} is {shown(value)}")
    return number


def number_in(text: str | None, what: str) -> float:
    """The number that a text holds; raises InvalidAnnotation if it is none or not finite."""
    try:
        return finite(float(text or ""), what)
    except InvalidAnnotation:
        raise
    except ValueError:
        raise InvalidAnnotation(
            "no number", f"{what}: expected a number, got {shown(text)}"
        ) from None


def whole(value: object, what: str, least: int = 0) -> int:
    """The value as a whole number of 63 bits; raises InvalidAnnotation if none or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise InvalidAnnotation(what, f"expected a whole number from {least}, got {shown(value)}")
    return value


def id_key(value: object) -> int | str | None:
    """An id as it is compared: 1.0 and "1" are 1, another text is itself; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value) if str(int(value)) == value else value
    return value if type(value) is int or isinstance(value, str) and value else None


def flag(value: object, what: str) -> bool:
    """The value as yes or no; raises InvalidAnnotation if it is neither."""
    text = "" if value is None else str(value).strip().lower()
    if text not in FLAGS or isinstance(value, list | dict):
        raise InvalidAnnotation(what, f"expected 0 or 1, got {shown(value)}")
    return FLAGS[text]


def class_name(value: object) -> str:
    """The name of a class, also a number's, without spaces around it; raises InvalidAnnotation if
    it is none."""
    value = str(value) if type(value) is int and abs(value) < 10**60 else value
    if not isinstance(value, str) or not value.strip():
        raise InvalidAnnotation("unknown class", f"expected a name, got {shown(value)}")
    return value.strip()


def in_unit_range(values: Sequence[float]) -> bool:
    """Whether coordinates that ought to be pixels look like fractions of the image."""
    return all(0 <= value <= 1 for value in values)


def inside(folder: str, name: object) -> str:
    """The path of a file below the root; raises InvalidAnnotation if the name leads elsewhere."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidAnnotation("file name", f"expected a path, got {shown(name)}")
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isabs(name) or path.split(os.sep)[0] == "..":
        raise InvalidAnnotation(
            "file name", f"expected a path inside the data set, got {shown(name)}"
        )
    return path


def load_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        InvalidAnnotation: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return json.load(file, object_pairs_hook=_unique)
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidAnnotation("no JSON", f"{type(error).__name__}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} is twice in one object: which is meant?")
    return found


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        InvalidAnnotation: It cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidAnnotation("unreadable", f"cannot be opened: {error.strerror}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidAnnotation("unreadable", f"expected UTF-8, save it so: {error}") from error


def is_image(name: str) -> bool:
    """Whether a file's suffix, in capitals or not, is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def files_below(root: Path, suffixes: tuple[str, ...], depth: int = 3) -> list[str]:
    """Files with one of the suffixes, in capitals or not, up to `depth` folders below the root.

    Paths are relative to the root and sorted; hidden files and folders are passed over.
    """
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        below = os.path.relpath(folder, root)
        level = 0 if below == "." else below.count(os.sep) + 1
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if level < depth else []
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found.append(os.path.normpath(os.path.join(below, name)))
    return sorted(found)
