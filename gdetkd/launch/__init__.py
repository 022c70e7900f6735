"""Processes, background runs, plans, and configs that are composed."""


def __getattr__(name: str):
    # Late: workers import this package, and need none of what a background run does.
    if name == "launch":
        from gdetkd.launch.background import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
