"""What a notebook prints, and what the records say, as numbers to compare a sentence with."""

import re
from functools import cache

from gdetkd.reproduce import report, statistics

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.?\d*")


class Page:
    """What the cells of a notebook print, and their code."""

    def __init__(self, shown: str, code: str) -> None:
        self.shown, self.code = shown, code

    def says(self, *texts: str) -> bool:
        return all(text in self.shown for text in texts)

    def row(self, label: str, place: int = 0) -> list[float]:
        """The numbers after a label, of its lines from number `place` on, tables' included."""
        rest = [line.partition(label)[2] for line in self.shown.splitlines() if label in line]
        assert rest, f"no cell prints {label!r}"
        return [
            float(x.replace(",", "").rstrip("."))
            for each in rest[place:]
            for x in NUMBER.findall(each)
        ]

    def value(self, label: str, place: int = 0) -> float:
        return self.row(label, place)[0]


@cache
def runs():
    return report.runs()


def gain(better: str, worse: str = "baseline") -> tuple[float, float]:
    """Mean difference in AP points, paired by seed, and the half width of its interval."""
    return statistics.interval(100 * statistics.paired_gain(runs(), better, worse))


def verdict(better: str, worse: str = "baseline") -> str:
    values = 100 * statistics.paired_gain(runs(), better, worse)
    return statistics.verdict(values, statistics.interval(values)[1])


def mean(experiment: str) -> float:
    return 100 * runs().query("experiment == @experiment")["AP"].mean()


def falls(values) -> bool:
    return values[-1] < values[0]


def tour_losses(page: Page, who: str, name: str) -> list[float]:
    lines = [line for line in page.shown.splitlines() if line.strip().startswith(f"{who}, step")]
    return [float(re.search(rf"{name} ([\d.]+)", line)[1]) for line in lines]


def open_both_ways(better: str, worse: str = "baseline", points: float = 1.0) -> bool:
    """Nothing is decided, and a difference of so many points is possible in both directions."""
    middle, half = gain(better, worse)
    return middle - half < -points and middle + half > points


def exploded(page: Page, critic: str) -> list[float]:
    return page.row(critic + "  ")[:5]
