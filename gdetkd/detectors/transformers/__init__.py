"""Detectors of Hugging Face transformers; importing it registers their adapter."""

from gdetkd.detectors.transformers.detr import QueryAdapter

__all__ = ["QueryAdapter"]
