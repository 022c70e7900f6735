"""Table 6: Faster R-CNN C4 and Cascade R-CNN, with students of three sizes."""

from gdetkd.reproduce.registry import Claim, Row, register_table

FAMILIES = dict(c4="Faster R-CNN C4", cascade="Cascade R-CNN")
SIZES = {
    "": "",
    "_middle": ", middle student (R50; on digits R34)",
    "_large": ", large student (R101; on digits its teacher's size)",
}
TEACHERS = dict(c4=34.8, cascade=43.0)
PAPER = {  # baseline, G-DetKD
    "c4": (22.0, 29.1), "c4_middle": (31.9, 34.7), "c4_large": (36.0, 36.8),
    "cascade": (36.5, 40.4), "cascade_middle": (40.3, 42.5), "cascade_large": (42.5, 43.3),
}  # fmt: skip


def pairs(family: str):
    """The teacher, then a plain and a distilled student of every size."""
    yield Row(
        f"teacher_{family}",
        f"{FAMILIES[family]}: the teacher",
        TEACHERS[family],
        student=f"teacher_{family}",
        distilled=False,
        seeds=1,
        embedded_only=True,
    )
    for size, text in SIZES.items():
        name = family + size
        plain, distilled = PAPER[name]
        yield Row(name, f"{FAMILIES[family]}{text}: baseline", plain, student=name, distilled=False)
        yield Row(f"gdetkd_{name}", f"{FAMILIES[family]}{text}: G-DetKD", distilled, student=name,
                  baseline=name, teacher=family)  # fmt: skip


register_table(
    "table6",
    "Table 6: other two-stage detectors",
    tuple(row for family in FAMILIES for row in pairs(family)),
    tuple(
        Claim(f"{family} pairs gain{size}", f"gdetkd_{key}{suffix}", f"{key}{suffix}")
        for key, family in (("c4", "C4"), ("cascade", "Cascade"))
        for suffix, size in zip(SIZES, ("", ", middle student", ", large student"), strict=True)
    ),
    shows_gap=False,
    order=6,
)
