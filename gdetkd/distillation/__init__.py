"""The components of distillation, the objective that sums them, and the data they exchange.

Each component is one module of this package, registered by being here.
"""

from importlib import import_module
from pkgutil import iter_modules

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.objective import Objective
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

__all__ = [
    "Component",
    "ComponentOutput",
    "DetectorSpec",
    "FeatureQueue",
    "Objective",
    "RoIOutputs",
    "overlap_mask",
    "register_component",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
