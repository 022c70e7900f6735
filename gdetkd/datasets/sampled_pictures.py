"""A sample of the pictures of a config's data: there, whole, and as large as stated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from gdetkd.datasets.images import examine
from gdetkd.datasets.report import InvalidAnnotation

PICTURES = 8  # of each data set
ADVICE = "`gdetkd data` checks and converts it"


def check_pictures(
    where: str,
    pictures: Sequence[tuple[str, tuple[int, int] | None]],
    pipeline: Sequence[Mapping],
) -> None:
    """Examine some of the pictures.

    Args:
        where: Stage and source, with which messages begin.
        pictures: Path, and stated width and height if there are any.
        pipeline: Of the data set: its loader may read pictures as they are stored.

    Raises:
        FileNotFoundError: Some of them are not there.
        ValueError: One is broken, or of another size than stated.
    """
    sample = pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]
    as_stored = any("ignore_orientation" in str(step.get("color_type", "")) for step in pipeline)
    missing = []
    for file, stated in sample:
        try:
            picture = examine(file)
        except InvalidAnnotation as problem:
            if problem.kind == "no image":
                missing.append(file)
            elif problem.kind != "16-bit image":
                raise ValueError(f"{where}: {os.fspath(file)}: {problem}; {ADVICE}") from None
            continue
        size = picture.stored if as_stored else (picture.width, picture.height)
        if stated not in (None, size):
            raise ValueError(
                f"{where}: {file} is loaded with {size[0]} x {size[1]} pixels, the annotation says "
                f"{stated[0]} x {stated[1]}; {ADVICE}"
            )
    if missing:
        raise FileNotFoundError(
            f"{where}: {len(missing)} of {len(sample)} sampled pictures are not there, such as "
            f"{missing[0]}"
        )
