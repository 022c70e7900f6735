"""What a detector finds, its AP, two detectors compared, and COCO submissions."""

from gdetkd.evaluation.comparison import compare

__all__ = ["compare"]
