"""MMDetection's `init_detector`, which builds the student of a distilled config.

MMDetection looks for a backbone in every config. A distilled detector predicts as its student does,
so neither the teacher nor its weights are needed. `gdetkd.startup` calls `patch`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config


def patch(module: ModuleType) -> None:
    """Replace `mmdet.apis.inference.init_detector`."""
    init_detector = module.init_detector

    @functools.wraps(init_detector)
    def of_the_student(config: Any, *args: Any, **settings: Any) -> Any:
        from gdetkd.detectors.mmdet.building import plain_student

        if isinstance(config, (str, Path)):
            config = Config.fromfile(config)
        if isinstance(config, Config):
            config = plain_student(config)
        return init_detector(config, *args, **settings)

    module.init_detector = of_the_student
