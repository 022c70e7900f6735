"""The image that belongs to an XML file: found by what is there, whatever its suffix."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import Sample
from gdetkd.datasets.values import files_below, is_image


class ImageIndex:
    """The images in the folders that may belong to a folder of annotations.

    Args:
        root: Root of the data set.
        folder: Folder of the annotations, relative to the root.
    """

    def __init__(self, root: Path, folder: str) -> None:
        parent, name = os.path.split(folder)
        grand = os.path.dirname(parent)
        places = [os.path.join(parent, "JPEGImages"), os.path.join(parent, "images"), folder]
        if grand != parent:  # annotations/train/ beside images/train/
            places += [os.path.join(grand, pool, name) for pool in ("JPEGImages", "images")]
        places += [os.path.join(parent, "Images"), os.path.join(parent, "img"), parent]
        self.places = [place for place in places if os.path.isdir(root / place)]
        self.root = root
        self.folders: dict[str, dict[str, list[str]]] = {}

    def find(self, stem: str, stated: str | None, sample: Sample, report: Report) -> str:
        """The image of an XML file, relative to the root.

        Args:
            stem: Name of the XML file without its suffix.
            stated: What the file says in <filename>: used where no image has the stem, or several.
            sample: Where the annotation is, for the report.
            report: Takes a remark if <filename> names another image that is there, too.

        Raises:
            InvalidAnnotation: No image is found, or several and nothing to choose by.
        """
        stated = os.path.basename((stated or "").strip().replace("\\", "/"))
        for place in self.places:
            names = self._listed(place).get(stem, [])
            if len(names) > 1:
                names = [name for name in names if os.path.basename(name) == stated] or names
            if len(names) > 1:
                several = ", ".join(names[:3])
                raise InvalidAnnotation("ambiguous image", f"{stem} may be any of {several}")
            if names:
                self._remark_other(place, stem, stated, sample, report)
                return os.path.join(place, names[0])
        for place in self.places:
            if stated and is_image(stated) and os.path.lexists(self.root / place / stated):
                return os.path.join(place, stated)
        where = ", ".join(f"{place or '.'}/" for place in self.places) or "any folder"
        raise InvalidAnnotation("no image", f"no image is named {shown(stem)}.* in {where}")

    def _remark_other(
        self, place: str, stem: str, stated: str, sample: Sample, report: Report
    ) -> None:
        other = os.path.splitext(stated)[0]
        if other and other != stem and other in self._listed(place):
            text = (
                f"says {shown(stated)}, an image of its own; that of the XML file's name is taken"
            )
            report.remark("filename", sample.file, sample.item, text)

    def _listed(self, place: str) -> dict[str, list[str]]:
        """Images below a folder: path without suffix -> paths, relative to the folder."""
        if place not in self.folders:
            found = defaultdict(list)
            below = self.root / place
            for name in files_below(below, ("",), depth=2):
                if is_image(name):
                    found[os.path.splitext(name)[0]].append(name)
            self.folders[place] = found
        return self.folders[place]
