"""What runs around the detectors: checkpoints, hooks, training and testing."""


def __getattr__(name: str):
    # Late: `gdetkd.engine.checkpoints` and others are imported where less is installed.
    if name == "launch":
        from gdetkd.engine.detached import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
