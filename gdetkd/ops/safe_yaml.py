"""YAML configs as data: MMEngine's loader would call whatever Python function a tag names."""

from __future__ import annotations

from types import ModuleType

import yaml


class DataLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader, which also knows tuples: MMEngine writes them into its YAML configs."""


DataLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


def patch(module: ModuleType) -> None:
    """Give `mmengine.fileio.handlers.yaml_handler` that loader."""
    module.Loader = DataLoader
