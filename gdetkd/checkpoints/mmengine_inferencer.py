"""OpenMMLab's inferencers without a config, which run the config text that a checkpoint carries.

`DetInferencer(weights=FILE)` executes it as Python. Checkpoints are data here, so that it asks for
the config instead. `gdetkd.startup` calls `patch`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from gdetkd.checkpoints.reading import CheckpointError


def patch(module: ModuleType) -> None:
    """Wrap `mmengine.infer.infer.BaseInferencer._init_model`; twice changes nothing."""
    plain = module.BaseInferencer._init_model
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def with_a_config(self: Any, cfg: Any, weights: Any, *args: Any, **settings: Any) -> Any:
        if not cfg:
            raise CheckpointError(
                f"{weights}: expected a config beside the weights, since the config text in a "
                "checkpoint is a program, and is not run; "
                f"{type(self).__name__}(CONFIG, WEIGHTS) takes {_written(weights)}"
            )
        return plain(self, cfg, weights, *args, **settings)

    module.BaseInferencer._init_model = with_a_config


def _written(weights: str | os.PathLike) -> str:
    """Where a training has left its config: beside its checkpoints."""
    written = sorted(Path(weights).parent.glob("*.py"))
    return (
        str(written[0]) if len(written) == 1 else "the one that its training left in its work dir"
    )
