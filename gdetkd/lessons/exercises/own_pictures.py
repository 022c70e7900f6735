"""Exercises of notebook 13: objects at the edge of a tile, and passes over the images."""

from __future__ import annotations

from gdetkd.lessons.exercises import Exercise, function_check

_CUTS = (
    ((10, 10, 50, 50), (0, 0, 200, 200)),  # whole
    ((180, 40, 220, 80), (0, 0, 200, 200)),  # half of it, to the left of the edge
    ((185, 40, 225, 80), (0, 0, 200, 200)),  # 15 of 40 px
    ((190, 190, 210, 210), (0, 0, 200, 200)),  # a quarter, in the corner
    ((160, 20, 190, 60), (160, 0, 360, 200)),  # whole, in a tile that does not begin at 0
    ((300, 20, 320, 60), (0, 0, 200, 200)),  # beside it
    ((300, 300, 320, 340), (0, 0, 200, 200)),  # apart in both directions
)


def belongs(box: tuple, tile: tuple) -> bool:
    """Whether at least half of a box lies in a tile; both are x1, y1, x2, y2."""
    width = min(box[2], tile[2]) - max(box[0], tile[0])
    height = min(box[3], tile[3]) - max(box[1], tile[1])
    inside = max(width, 0) * max(height, 0)
    return inside >= 0.5 * (box[2] - box[0]) * (box[3] - box[1])


def passes(images: int, batch: int, steps: int) -> float:
    """How often a training of `steps` steps sees every image."""
    return steps * batch / images


EXERCISES = {
    "belongs": Exercise(
        "Write belongs(box, tile): does at least half of the box's area lie in the tile?",
        function_check(belongs, _CUTS, "box {} and tile {}, both x1, y1, x2, y2"),
        belongs,
    ),
    "passes": Exercise(
        "Write passes(images, batch, steps): how often does the training see every image?",
        function_check(
            passes,
            ((54, 4, 300), (54, 4, 50), (8, 8, 10)),
            "{} images, {} per step, {} steps",
        ),
        passes,
    ),
}
