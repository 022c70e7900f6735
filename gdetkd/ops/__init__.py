"""Operators: RoIAlign with a quick backward pass, and `mmcv._ext` on torchvision's kernels."""
