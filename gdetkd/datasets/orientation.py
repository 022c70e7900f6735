"""Turned photographs: boxes as the pixels are stored, or as the Exif tag turns them when loaded.

OpenCV, and with it MMDetection's loader, turns an image by its Exif orientation. Some tools label
what they show, turned as well; others label the stored pixels, and the stated size need not follow
the boxes. A box that reaches out of the image in one of the two readings proves the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from gdetkd.datasets.images import Picture
from gdetkd.datasets.report import InvalidAnnotation
from gdetkd.datasets.samples import Candidate, Sample

Box = tuple[float, float, float, float]
STORED, SHOWN = "stored", "shown"
ROUNDING = 1.0  # a box may reach this many pixels out of its image


def fits(box: Sequence[float], width: float, height: float) -> bool:
    """Whether a box (x, y, w, h) is inside an image, up to `ROUNDING` pixels."""
    x, y, w, h = box
    return max(-x, -y, x + w - width, y + h - height) <= ROUNDING + 1e-6  # of float sums


def turn_objects(sample: Sample, picture: Picture, default: str | None) -> str | None:
    """Bring the boxes of a turned image to the picture as it is loaded.

    Args:
        sample: Its boxes and polygons, in pixels, are converted in place.
        picture: What the file holds; one that is loaded as stored needs nothing.
        default: "stored" or "shown" where neither boxes nor the stated size settle it.

    Returns:
        Which reading was taken; None for an image that is not turned, or has no objects. Run
        lengths follow the stored columns: converted objects lose them.

    Raises:
        InvalidAnnotation: The reading is not settled, or boxes contradict each other.
    """
    if picture.turn == 1 or not sample.objects:
        return None
    reading = _reading(sample, picture, default)
    if reading == STORED:
        for candidate in sample.objects:
            _turn(candidate, picture, sample.edge)
    return reading


def _reading(sample: Sample, picture: Picture, default: str | None) -> str:
    shown, stored = (picture.width, picture.height), picture.stored
    proofs = set()  # fractions of the image fit either way and prove nothing
    for candidate in sample.objects:
        as_shown, as_stored = fits(candidate.box, *shown), fits(candidate.box, *stored)
        if as_shown != as_stored and not candidate.fractions:
            proofs.add(SHOWN if as_shown else STORED)
    if len(proofs) == 1:
        return proofs.pop()
    if proofs:
        text = "some boxes fit only the stored image, others only the turned one"
        raise InvalidAnnotation("turned image", f"{sample.name}: {text}")
    if default is not None:
        return default
    # Size and boxes agree: both are as a viewer shows them.
    if sample.size == shown != stored:
        return SHOWN
    raise InvalidAnnotation(
        "turned image",
        f"{sample.name}: Exif orientation {picture.turn}; the boxes fit the image as stored and as "
        "shown, and nothing else settles which is meant. Say it with --turned stored or "
        "--turned shown, or save the image without the tag",
    )


def _turn(candidate: Candidate, picture: Picture, edge: int) -> None:
    width, height = (side - edge for side in picture.stored)
    x, y, w, h = candidate.box
    corners = [
        turn_point(*point, width, height, picture.turn) for point in ((x, y), (x + w, y + h))
    ]
    (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
    candidate.box = (x1, y1, x2 - x1, y2 - y1)
    mask = candidate.more.get("segmentation")
    if isinstance(mask, list):
        candidate.more["segmentation"] = [
            [
                value
                for point in zip(polygon[::2], polygon[1::2], strict=True)
                for value in turn_point(*point, width, height, picture.turn)
            ]
            for polygon in mask
        ]
    elif mask is not None:
        del candidate.more["segmentation"]


def turn_point(x: float, y: float, width: float, height: float, turn: int) -> tuple[float, float]:
    """Where a point of the stored image is after the turn: Exif 2.3, table of orientations.

    Args:
        x, y: Pixels from the stored image's upper left corner.
        width, height: Of the stored image.
        turn: The Exif orientation, 1 to 8.
    """
    return {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[turn]
