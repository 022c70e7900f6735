"""`gdetkd::NAME` wherever MMEngine reads a config: in `_base_` lists of any process."""

from __future__ import annotations

import functools
from types import ModuleType

from gdetkd.checkpoints.hub import SHIPPED, find_config


def patch(module: ModuleType) -> None:
    """Have `mmengine.config.config` find the configs of this package; twice changes nothing."""
    plain = module.Config._get_cfg_path
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def config_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(SHIPPED):
            return find_config(cfg_path), None  # MMDetection's scope, as the config that asks
        return plain(cfg_path, filename)

    module.Config._get_cfg_path = staticmethod(config_path)
