"""Detectors as students and teachers: the adapter protocol and the families of each library."""

from gdetkd.detectors.adapter import ADAPTERS, Adapter, adapter_for

__all__ = ["ADAPTERS", "Adapter", "adapter_for"]
