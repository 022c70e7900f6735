"""Entries that share an id: copies count once, different things under one id not at all."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from gdetkd.datasets.report import InvalidAnnotation
from gdetkd.datasets.values import id_key


class RepeatedIds:
    """Which entries of a list share their `id` with others."""

    def __init__(self, entries: list) -> None:
        self.groups: dict[Any, list[tuple[int, dict]]] = defaultdict(list)
        for place, entry in enumerate(entries):
            number = id_key(entry.get("id")) if isinstance(entry, dict) else None
            if number is not None:
                self.groups[number].append((place, entry))

    def check(self, place: int, entry: Any) -> None:
        """Raise InvalidAnnotation unless the entry at that place alone has its id, or is the first
        of several copies."""
        number = id_key(entry.get("id")) if isinstance(entry, dict) else None
        group = self.groups.get(number, [])
        if any(other != entry for _, other in group):
            text = f"{len(group)} different entries have this id: all are left out"
            raise InvalidAnnotation("ambiguous id", text)
        if group and place != group[0][0]:
            raise InvalidAnnotation("duplicate id", "is there already, with the same content")
