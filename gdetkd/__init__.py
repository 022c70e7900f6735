"""G-DetKD: knowledge distillation for object detectors (Yao et al., ICCV 2021)."""

__version__ = "0.1.0"

from gdetkd import startup

startup.install()


def __getattr__(name: str):
    # Late: this module runs in every Python process of the environment, and torch is large.
    if name == "Distiller":
        from gdetkd.detectors.distiller import Distiller

        return Distiller
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
