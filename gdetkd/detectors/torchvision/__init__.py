"""torchvision's detectors; importing it registers their adapters."""

from gdetkd.detectors.torchvision.dense import SingleStageAdapter
from gdetkd.detectors.torchvision.rcnn import RCNNAdapter

__all__ = ["RCNNAdapter", "SingleStageAdapter"]
