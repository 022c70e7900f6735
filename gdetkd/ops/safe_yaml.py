"""YAML configs as data: MMEngine's loader would call whatever Python function a tag names."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import yaml

ENTRIES = 10**6  # of a config, with every alias written out as a config does


class DataLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader, which also knows tuples: MMEngine writes them into its YAML configs.

    A document that grows without end when its aliases are written out is refused.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        self._count(node, {})
        return super().construct_document(node)

    def _count(self, node: yaml.Node, known: dict[int, int]) -> int:
        """Entries below a node; 0 inside an alias of itself, which has no end."""
        if id(node) not in known:
            known[id(node)] = 0
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
            inside = sum(self._count(part, known) for pair in pairs for part in pair)
            known[id(node)] = 1 + inside
            if inside >= ENTRIES:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"expected at most {ENTRIES} entries, aliases make more",
                    node.start_mark,
                )
        return known[id(node)]


DataLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


def patch(module: ModuleType) -> None:
    """Give `mmengine.fileio.handlers.yaml_handler` that loader."""
    module.Loader = DataLoader
