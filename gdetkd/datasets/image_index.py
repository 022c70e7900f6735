"""The image that an annotation means: found by what is there, whatever path or suffix is stated."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.splits import role
from gdetkd.datasets.values import UNREAD_SUFFIXES, files_below, inside, is_image


class ImageIndex:
    """The images below the root, by the ends of their paths.

    Capitals, the suffix, the kind of slashes and the form of accents need not be as stated, and
    the folders of another machine are passed over. An image of another split is never taken.

    Args:
        root: Root of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.elsewhere: dict[str, str] = {}  # what was stated -> what was taken for it
        self._ends: dict[str, list[str]] | None = None
        self._unread: dict[str, list[str]] = defaultdict(list)  # found to be named, not to be used

    def find(self, stated: object, places: Sequence[str] = ("",), split: str = "") -> str:
        """`lookup`; where no image is found, the path as stated, for its check to report.

        Raises:
            InvalidAnnotation: No path is stated, it leads out of the data set, or several images
                fit.
        """
        return self.lookup(stated, places, split) or inside(places[0], stated)

    def lookup(
        self, stated: object, places: Sequence[str] = ("",), split: str = "", prefer: str = ""
    ) -> str | None:
        """The path of an image, relative to the root; None where none is found.

        Args:
            stated: What the annotation says: a path, or a name without a suffix.
            places: Folders, the likely ones first; a path that is there below one of them is taken
                as it stands.
            split: Name of the split, whose images are not in folders named after other splits.
            prefer: The file name to take if several images fit.

        Raises:
            InvalidAnnotation: No path is stated, or several images fit.
        """
        if not isinstance(stated, str) or not stated or "\0" in stated:
            raise InvalidAnnotation("file name", f"expected a path, got {shown(stated)}")
        if not os.path.isabs(stated):
            for place in places:
                path = os.path.normpath(os.path.join(place, stated))
                if path.split(os.sep)[0] != ".." and self._is_there(path):
                    return path
        found = self._by_end(stated, places, split, prefer)
        if found is not None:
            plain = found if is_image(stated) else os.path.splitext(found)[0]
            if not f"/{plain}".endswith(f"/{os.path.normpath(stated)}"):
                self.elsewhere[stated] = found
        return found

    def report_elsewhere(self, file: str, report: Report) -> None:
        """A remark on the images that were not where an annotation file says, if there are any."""
        if self.elsewhere:
            stated, taken = next(iter(self.elsewhere.items()))
            text = (
                f"{len(self.elsewhere)} images are not where the file says, such as "
                f"{shown(stated)}; those of the same name are taken, here {shown(taken)}"
            )
            report.remark("file name", file, "", text)
            self.elsewhere = {}

    def _is_there(self, path: str) -> bool:
        try:
            there = os.path.lexists if is_image(path) else os.path.isfile
            return there(self.root / path)
        except (OSError, ValueError):
            return False

    def _by_end(self, stated: str, places: Sequence[str], split: str, prefer: str) -> str | None:
        """The one image whose path has the longest end in common with the stated one."""
        parts = [part for part in re.split(r"[/\\]|\?d=", unquote(stated)) if part.strip("./")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            name = os.path.splitext(end)[0] if is_image(end) else end
            fitting = [path for path in self._paths(_key(name)) if not _of_another(path, split)]
            near = next((f for f in (_below(fitting, place) for place in places) if f), fitting)
            near = _closest(near, os.path.basename(end), prefer)
            if len(near) > 1:
                several = ", ".join(near[:3])
                text = f"{shown(stated)} may be any of {several}"
                raise InvalidAnnotation("ambiguous image", text)
            if near:
                return near[0]
        return None

    def _paths(self, key: str) -> list[str]:
        if self._ends is None:
            self._ends = defaultdict(list)
            for path in files_below(self.root, ("",), depth=5):
                ends = self._ends if is_image(path) else self._unread
                if ends is self._ends or path.lower().endswith(UNREAD_SUFFIXES):
                    parts = _key(os.path.splitext(path)[0]).split(os.sep)
                    for start in range(len(parts)):
                        ends["/".join(parts[start:])].append(path)
        return self._ends.get(key) or self._unread.get(key, [])


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def _below(paths: list[str], place: str) -> list[str]:
    """Paths in a folder itself; else those somewhere below it."""
    place = "" if place in ("", ".") else os.path.normpath(place)
    return [path for path in paths if os.path.dirname(path) == place] or [
        path for path in paths if place and path.startswith(place + os.sep)
    ]


def _closest(paths: list[str], *wanted: str) -> list[str]:
    """Paths whose file name is a wanted one: in full, else without its suffix, else in capitals or
    not; all of them if none is."""
    keys = {*map(_key, wanted)}
    stems = {os.path.splitext(name)[0] if is_image(name) else name for name in wanted}
    ranks = {}
    for path in paths:
        name = os.path.basename(path)
        stem = os.path.splitext(name)[0]
        ranks[path] = (name not in wanted, stem not in stems, _key(name) not in keys)
    return [path for path in paths if ranks[path] == min(ranks.values())]


def _of_another(path: str, split: str) -> bool:
    """Whether a folder of the path is named after another split, and none after this one."""
    roles = {role(part) for part in path.split(os.sep)[:-1]} - {None}
    return role(split) is not None and bool(roles) and role(split) not in roles
