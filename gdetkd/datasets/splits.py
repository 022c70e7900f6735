"""Which split is for training, which for validation and test: by its name, or as the user says."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from gdetkd.datasets.report import Report, shown
from gdetkd.datasets.samples import Sample

WORDS = {
    "train": ("train", "training", "trn", "trainval", "trainvalid"),
    "val": ("val", "valid", "validation", "validate", "eval", "evaluation", "dev", "minival"),
    "test": ("test", "testing", "tst"),
}
ROLES = {word: role for role, words in WORDS.items() for word in words}


def role(name: str) -> str | None:
    """ "train", "val" or "test" if the words of a split's name say one of them, else None.

    Capitals, digits and other words do not matter: `instances_Train2017` is for training.
    """
    roles = {ROLES[word] for word in re.findall(r"[a-z]+", name.lower()) if word in ROLES}
    return roles.pop() if len(roles) == 1 else None


def choose_stages(
    splits: Iterable[str], train: str | None = None, val: str | None = None
) -> dict[str, str]:
    """The split of each stage: "train", "val" and "test".

    Without a split for validation, that for test is taken; without one for test, that for
    validation. A data set of one split is validated on what it is trained on.

    Raises:
        ValueError: The names do not settle it; the message says what to choose with.
    """
    names = list(splits)
    for option, chosen in (("--train", train), ("--val", val)):
        if chosen is not None and chosen not in names:
            raise ValueError(f"{option} {chosen}: expected one of the splits {', '.join(names)}")
    train = train or _only(names, "train", "--train")
    test = _only([name for name in names if name not in (train, val)], "test", None)
    val = val or _only([name for name in names if name != train], "val", "--val") or test
    if train is None and len(names) == 1 and role(names[0]) is None:
        train = names[0]
    if train is None:
        raise ValueError(
            f"no split is for training by its name among {', '.join(names)}; say which: "
            "--train NAME --val NAME"
        )
    if val is None and len(names) > 1:
        raise ValueError(
            f"no split is for validation by its name among {', '.join(names)}; say which: "
            "--val NAME (the one to train on is possible, too)"
        )
    val = val or train
    return dict(train=train, val=val, test=test or val)


def _only(names: Sequence[str], wanted: str, option: str | None) -> str | None:
    """The one split of a role; among several the one that is named just so."""
    found = [name for name in names if role(name) == wanted]
    if len(found) > 1:
        exact = [name for name in found if name.lower() == wanted]
        if len(exact) != 1 and option:
            raise ValueError(
                f"several splits are for {wanted} by their names: {', '.join(found)}; "
                f"say which: {option} NAME"
            )
        found = exact if len(exact) == 1 else []
    return found[0] if found else None


def divide(
    samples: Sequence[Sample], fraction: float, group: str | None = None
) -> tuple[list[Sample], list[Sample]]:
    """Take a part of the images for validation: the same ones every time, whatever their order.

    Args:
        samples: Images of the one split that there is.
        fraction: Part for validation, between 0 and 1.
        group: Regular expression that is searched in an image's path. Images with the same match
            (its first group, if it has one) stay together; one without a match is on its own.

    Raises:
        ValueError: The fraction or the expression is none, or a side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction: expected a number between 0 and 1, got {fraction}")
    try:
        pattern = re.compile(group) if group else None
    except re.error as error:
        raise ValueError(f"--group {group}: expected a regular expression: {error}") from None
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        match = pattern.search(sample.name) if pattern else None
        key = sample.name if match is None else f"group {(match.groups() or match.group(0))[0]}"
        groups[key].append(sample)
    order = sorted(groups, key=lambda key: hashlib.sha256(key.encode("utf-8", "replace")).digest())
    taken: set[str] = set()
    wanted, count = max(1, round(fraction * len(samples))), 0
    for key in order[:-1]:  # one group stays for training
        if count >= wanted:
            break
        taken.add(key)
        count += len(groups[key])
    if not taken:
        raise ValueError(
            f"--val-fraction: expected images of at least two groups, got {len(groups)}; "
            "use another --group"
        )
    val = [sample for key in taken for sample in groups[key]]
    train = [sample for key, part in groups.items() if key not in taken for sample in part]
    return train, val


def remark_mixed(splits: Mapping[str, Sequence[Sample]], report: Report) -> None:
    """One line per split whose images lie in folders that are named after several splits."""
    for split, samples in splits.items():
        counts: dict[str, int] = defaultdict(int)
        for sample in samples:
            for name in {part for part in sample.name.split("/")[:-1] if role(part)}:
                counts[name] += 1
        if len({role(name) for name in counts}) > 1:
            there = ", ".join(f"{shown(name)} ({count})" for name, count in counts.items())
            text = f"its images lie in folders named after several splits: {there}"
            report.remark("mixed splits", split, "", text)


def remark_overlaps(pictures: Mapping[str, Mapping[str, bytes]], report: Report) -> None:
    """One line per pair of splits with image files in common, be it under other names.

    Args:
        pictures: Split -> name of a file -> digest of its bytes.
    """
    for first, second in combinations(pictures, 2):
        known = {*pictures[first].values()}
        common = sorted(name for name, digest in pictures[second].items() if digest in known)
        if common:
            text = (
                f"{len(common)} of its {len(pictures[second])} image files are in {first!r}, too, "
                f"such as {shown(common[0])}: AP on images trained on says nothing"
            )
            report.remark("overlapping splits", second, "", text)
