"""What is wrong with a data set: one line per problem, and a count of objects that must balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


class InvalidAnnotation(ValueError):
    """An object, image or file that cannot be used: a short kind, and what was found."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class Problem:
    """One line of the report.

    kind: Short name that many lines share, such as "zero area".
    file, item: Where: a path below the data set's root, and an id in it ("annotation 7").
    text: What was found, and what was expected.
    objects: How many objects it leaves out.
    bad: Whether the strict mode stops at it; a remark does not.
    """

    kind: str
    file: str
    item: str
    text: str
    objects: int = 0
    bad: bool = True

    def __str__(self) -> str:
        where = f"{self.file}: {self.item}" if self.item else self.file
        mark = "" if self.bad else "remark: "
        return printable(f"{where}: {mark}{self.kind}: {self.text}")


@dataclass
class Report:
    """The problems of a data set. Objects in = objects out + objects reported."""

    problems: list[Problem] = field(default_factory=list)
    images_in: int = 0
    images_out: int = 0
    objects_in: int = 0
    objects_out: int = 0

    def leave_out(
        self, problem: InvalidAnnotation, file: str, item: str = "", objects: int = 0
    ) -> None:
        """Something cannot be used, and `objects` objects with it."""
        self.problems.append(Problem(problem.kind, file, item, problem.text, objects))

    def remark(self, kind: str, file: str, item: str, text: str, objects: int = 0) -> None:
        """Something to know that stops nothing."""
        self.problems.append(Problem(kind, file, item, text, objects, bad=False))

    @property
    def bad(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.bad]

    @property
    def objects_reported(self) -> int:
        return sum(problem.objects for problem in self.problems)

    @property
    def balanced(self) -> bool:
        return self.objects_in == self.objects_out + self.objects_reported

    def kinds(self) -> dict[str, int]:
        """How many problems there are of each kind, most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def summary(self) -> str:
        return (
            f"images: {self.images_in} in, {self.images_out} out; objects: {self.objects_in} in = "
            f"{self.objects_out} out + {self.objects_reported} reported"
        )

    def write(self, path: Path) -> None:
        """One line per problem, then the counts."""
        lines = [*map(str, self.problems), self.summary()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def printable(text: str) -> str:
    """The text on one line, with what cannot be printed escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object, length: int = 60) -> str:
    """A value of a file as it may stand in a line: never longer than a glance."""
    if isinstance(value, int) and abs(value) >= 10**length:
        return "a number of more than 60 digits"
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def listing(values: Sequence[object]) -> str:
    """The first of some values of a file, as they may stand in a sentence."""
    text = ", ".join(shown(value, 30) for value in values[:6])
    return text + (f", ... ({len(values)})" if len(values) > 6 else "") if values else "none"
