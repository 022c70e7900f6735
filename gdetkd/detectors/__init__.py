"""MMDetection's detectors as students and teachers; importing it registers all components."""

from gdetkd.detectors.adapters import ADAPTERS, Adapter, adapter_for
from gdetkd.detectors.dense import DenseAdapter
from gdetkd.detectors.detr import DetrAdapter
from gdetkd.detectors.distilled import DistilledDetector
from gdetkd.detectors.two_stage import TwoStageAdapter
from gdetkd.engine import checkpoints, hooks  # noqa: F401  (SafeCheckpointHook, DistillationHook)

__all__ = [
    "ADAPTERS",
    "Adapter",
    "DenseAdapter",
    "DetrAdapter",
    "DistilledDetector",
    "TwoStageAdapter",
    "adapter_for",
]
