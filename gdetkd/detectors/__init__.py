"""Detectors as students and teachers: the adapter protocol and the families of each library."""

from gdetkd.detectors.adapter import ADAPTERS, Adapter, TrainingPass, adapter_for, register
from gdetkd.detectors.distiller import Distiller
from gdetkd.detectors.onnx_export import export_onnx
from gdetkd.detectors.pixels import PixelFormat

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Distiller",
    "PixelFormat",
    "TrainingPass",
    "adapter_for",
    "export_onnx",
    "register",
]
