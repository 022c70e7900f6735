"""G-DetKD: knowledge distillation for object detectors (Yao et al., ICCV 2021) on MMDetection."""

__version__ = "0.1.0"

from gdetkd.ops import ext_finder

ext_finder.install()
