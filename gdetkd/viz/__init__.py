"""Figures: functions take data and an optional Axes, and return the Axes or the Figure."""

from gdetkd.viz.detections import compare_detectors, draw_detections

__all__ = ["compare_detectors", "draw_detections"]
