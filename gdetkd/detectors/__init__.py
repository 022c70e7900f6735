"""MMDetection's detectors as students and teachers."""

from gdetkd.detectors.adapters import ADAPTERS, Adapter, adapter_for
from gdetkd.detectors.distilled import DistilledDetector
from gdetkd.detectors.two_stage import TwoStageAdapter

__all__ = ["ADAPTERS", "Adapter", "DistilledDetector", "TwoStageAdapter", "adapter_for"]
