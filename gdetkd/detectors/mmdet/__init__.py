"""MMDetection's detectors; importing it registers ours, their hooks, adapters and backbones."""

import gdetkd.checkpoints.hook  # noqa: F401  (registers SafeCheckpointHook)
import gdetkd.detectors.mmdet.annealing  # noqa: F401  (registers AnnealingHook)
import gdetkd.detectors.mmdet.hook  # noqa: F401  (registers DistillationHook)
import gdetkd.detectors.mmdet.refused  # noqa: F401  (registers RefusedAdapter)
from gdetkd.detectors.mmdet.dense import DenseAdapter
from gdetkd.detectors.mmdet.detr import DetrAdapter
from gdetkd.detectors.mmdet.distilled import DistilledDetector
from gdetkd.detectors.mmdet.other_library import TorchvisionDetector, TransformersDetector
from gdetkd.detectors.mmdet.sparse_rcnn import SparseRCNNAdapter
from gdetkd.detectors.mmdet.timm_backbone import TimmBackbone
from gdetkd.detectors.mmdet.two_stage import TwoStageAdapter

__all__ = [
    "DenseAdapter",
    "DetrAdapter",
    "DistilledDetector",
    "SparseRCNNAdapter",
    "TimmBackbone",
    "TorchvisionDetector",
    "TransformersDetector",
    "TwoStageAdapter",
]
