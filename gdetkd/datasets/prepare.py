"""Verify a data set, convert it to COCO JSON, and say what there is: `gdetkd data` but for digits.

The originals are never touched: everything goes to a folder of its own, `annotations/SPLIT.json`,
`images` (a link to the root), `dataset.json` (what there is and where), `dataset.py` (a config to
inherit from), `contact_sheet.jpg` and `report.txt`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gdetkd.datasets.readers  # noqa: F401  (registers the layouts)
from gdetkd.datasets.readers.custom import survey
from gdetkd.datasets.report import InvalidAnnotation, Report, shown
from gdetkd.datasets.samples import LAYOUTS, Layout, Progress, RawDataset, Request, Sample
from gdetkd.datasets.splits import choose_stages, divide, remark_mixed, remark_overlaps
from gdetkd.datasets.tiles import TILES, check_tiling, cut
from gdetkd.datasets.to_coco import Classes, to_coco
from gdetkd.datasets.values import files_below, is_image
from gdetkd.datasets.written import REPORT, write_dataset

MIN_SIZE = 32  # MMDetection's configs train on no image with a side below this (filter_cfg)


@dataclass
class Prepared:
    """What became of a data set.

    report: Every problem and the counts.
    summary: What `dataset.json` holds; None where nothing was written.
    """

    report: Report
    summary: dict | None


def prepare(
    layout: str,
    root: str | os.PathLike,
    out: str | os.PathLike,
    on_error: str = "strict",
    classes: Sequence[str] | None = None,
    progress: Progress = lambda items, _: items,
    *,
    rename: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    train: str | None = None,
    val: str | None = None,
    val_fraction: float | None = None,
    group: str | None = None,
    turned: str | None = None,
    flags: Sequence[str] = (),
    tile: int | None = None,
    overlap: float = 0.2,
) -> Prepared:
    """Verify the data set at `root` and write what training needs to `out`.

    Args:
        layout: One of `LAYOUTS`.
        root: Where the data set lies, as its archives unpack.
        out: Where the converted annotations go; not inside the root.
        on_error: "strict": where anything cannot be used, write the report alone. "skip": leave
            out what cannot be used.
        classes: The user's own class names, in the order of the labels; by default the release's,
            or those that the files declare.
        progress: Called as ``progress(items, description)``, gives the items back.
        rename: Class names in the files -> the names to use.
        drop: Class names whose objects are left out, with a remark.
        train, val: Names of the splits to train and to validate on, where their names do not say.
        val_fraction: Part of the images of the only split that is taken for validation.
        group: Regular expression: images whose paths have the same match stay in one split.
        turned: "stored" or "shown": how boxes of images with an Exif orientation are meant, where
            neither boxes nor sizes settle it.
        flags: Further switches of the layout (`Layout.flags`).
        tile: Side in px of the tiles that pictures are cut into (`tiles`); None for whole pictures.
        overlap: The part of a tile's side that two neighbors share.

    Raises:
        FileNotFoundError: There is no such data set; the message says what to fetch.
        ValueError: The arguments contradict each other, or names of splits do not settle which is
            for training and which for validation.
    """
    form, root, out = LAYOUTS[layout], Path(root), Path(out)
    _check_arguments(form, root, out, on_error, classes, turned, flags)
    check_tiling(tile, overlap)
    report = Report()
    release = form.read_release is not None and not classes
    read = form.read_release if release else form.read
    raw = read(Request(root, report, classes, frozenset(flags)))
    missing = release and all(problem.kind == "missing split" for problem in report.bad)
    if not raw.splits and (missing or not report.bad):
        raise FileNotFoundError(
            f"{root}: expected a data set, found {survey(root)}; expected "
            + form.expects.format(root=root)
        )
    try:
        if val_fraction is not None:
            raw.splits = _divided(raw, val_fraction, group)
        stages = choose_stages(raw.splits, train, val)
    except ValueError as error:
        if not report.bad:
            raise
        # A split that is missing or broken, which is reported, unsettles it.
        count = sum(len(sample.objects) for samples in raw.splits.values() for sample in samples)
        if raw.splits:
            problem = InvalidAnnotation("nothing to train on", str(error))
            report.leave_out(problem, "all splits", objects=count)
        stages = {}
    contents: dict[str, dict] = {}
    if not stages:
        return _finish(form, root, out, on_error, contents, stages, report, release)
    for split in raw.splits.keys() - {*stages.values()}:
        text = f"{len(raw.splits[split])} images, neither trained, validated nor tested on"
        report.remark("unused split", split, "", text)
    known = _classes(form, release, classes, raw, rename or {}, drop)
    _remark_unannotated(root, raw, report)
    pictures: dict[str, dict] = {split: {} for split in raw.splits}
    for split, samples in raw.splits.items():
        content = to_coco(samples, known, root, report, turned, progress, pictures[split])
        if content["images"]:
            contents[split] = content
        else:
            text = "it has no image that can be used"
            report.leave_out(InvalidAnnotation("empty split", text), split)
    remark_mixed(raw.splits, report)
    remark_overlaps(pictures, report)
    _remark_classes(contents, known, stages, report)
    if not _check_trainable(contents.get(stages["train"]), stages["train"], report):
        contents = {}
    else:
        measured = _measurable(contents, stages, report)
        there = [stages[stage] for stage in ("val", "test", "train") if stages[stage] in measured]
        stages.update({s: there[0] for s in ("val", "test") if stages[s] not in measured})
    if tile is not None and contents and not (on_error == "strict" and report.bad):
        contents = cut(contents, root, out, tile, overlap, report, progress)
        root, release = out / TILES, False
    return _finish(form, root, out, on_error, contents, stages, report, release)


def _finish(form, root, out, on_error, contents, stages, report, release) -> Prepared:
    """Write the report, and the rest unless something stands against it."""
    out.mkdir(parents=True, exist_ok=True)
    originals = _originals(form, root, contents, release, report)
    report.write(out / REPORT)
    if (on_error == "strict" and report.bad) or not contents:
        return Prepared(report, None)
    summary = write_dataset(form, root, out, contents, stages, report, originals, release)
    return Prepared(report, summary)


def config_options(summary: Mapping) -> dict[str, object]:
    """What a config of MMDetection needs to use a prepared data set, as `--cfg-options`."""
    splits = summary["splits"]
    stages = summary.get("stages") or choose_stages(splits)
    options: dict[str, object] = {}
    for stage, split in stages.items():
        dataset = f"{stage}_dataloader.dataset."
        options[dataset + "ann_file"] = splits[split]["annotations"]
        options[dataset + "data_prefix.img"] = splits[split]["images"]
        options[dataset + "metainfo.classes"] = tuple(summary["classes"])
        form = LAYOUTS.get(summary["layout"])
        if stage != "train" and (form is None or form.metric_reads_file):
            options[f"{stage}_evaluator.ann_file"] = splits[split]["annotations"]
    return options


def one_split(summary: Mapping) -> str | None:
    """A warning where the split to validate on is the one to train on; None where it is not."""
    stages = summary.get("stages") or choose_stages(summary["splits"])
    if stages["train"] != stages["val"]:
        return None
    return (
        f"Warning: there is no split to validate on beside {stages['train']!r}: AP will be that of "
        "the images trained on. --val-fraction 0.2 takes a fifth of them for validation."
    )


def _check_arguments(form: Layout, root, out, on_error, classes, turned, flags) -> None:
    if on_error not in ("strict", "skip"):
        raise ValueError(f"on_error: expected 'strict' or 'skip', got {on_error!r}")
    if turned not in (None, "stored", "shown"):
        raise ValueError(f"turned: expected 'stored' or 'shown', got {turned!r}")
    if classes is not None and (len(set(classes)) != len(classes) or not all(classes)):
        raise ValueError(f"classes: expected different names, got {list(classes)}")
    if classes and form.read is None:
        raise ValueError(f"{form.name} has classes of its own; leave out --classes")
    if unknown := sorted({*flags} - {*form.flags}):
        raise ValueError(f"{form.name}: expected flags out of {list(form.flags)}, got {unknown}")
    if not root.is_dir():
        expects = form.expects.format(root=root)
        raise FileNotFoundError(f"{root}: expected a folder, there is none; expected {expects}")
    if (out / "images").exists() and not (out / "images").is_symlink():
        raise ValueError(f"{out}: expected a folder for results, it has a folder images of its own")
    inner, outer = os.path.realpath(out), os.path.realpath(root)
    if os.path.commonpath([inner, outer]) == outer:
        raise ValueError(f"{out}: expected a folder outside of the data set {root}")


def _classes(
    form: Layout, release: bool, classes: Sequence[str] | None, raw: RawDataset,
    rename: Mapping[str, str], drop: Sequence[str],
) -> Classes:  # fmt: skip
    """The classes that are wanted: the user's, the release's or those that the files declare."""
    found = Counter(c.name for samples in raw.splits.values() for s in samples for c in s.objects)
    for option, names in (("--rename", rename), ("--drop", drop)):
        known = {*found, *(raw.names or []), *((form.classes or {}).values() if release else [])}
        for name in names:
            if name not in known and name not in rename.values():
                raise ValueError(
                    f"{option} {name}: no object has this class; there are {_listing(found)}"
                )
    if release and not rename and not drop:
        return Classes({name: number for number, name in form.classes.items()})
    names = classes or (list(form.classes.values()) if release else raw.names)
    if not names:
        raise ValueError(
            f"expected --classes NAME,NAME,... in the order of the labels; there are "
            f"{_listing(found)}"
        )
    wanted = [rename.get(name, name) for name in names]
    wanted = [name for name in dict.fromkeys(wanted) if name not in drop]
    if not wanted:
        raise ValueError(f"--drop: expected to leave a class, got all of {list(names)}")
    ids = {name: number for number, name in enumerate(wanted, start=1)}
    return Classes(ids, rename, frozenset(drop))


def _listing(found: Counter) -> str:
    names = [f"{shown(name)} ({count})" for name, count in found.most_common(20)]
    return ", ".join(names) or "no objects"


def _divided(raw: RawDataset, fraction: float, group: str | None) -> dict[str, list[Sample]]:
    if len(raw.splits) != 1:
        raise ValueError(
            f"--val-fraction: expected a data set of one split, got {', '.join(raw.splits)}"
        )
    (samples,) = raw.splits.values()
    train, val = divide(samples, fraction, group)
    return dict(train=train, val=val)


def _remark_unannotated(root: Path, raw: RawDataset, report: Report) -> None:
    """Count the images that no annotation speaks of, and those without objects."""
    used = {sample.name for samples in raw.splits.values() for sample in samples}
    for folder in sorted({os.path.dirname(name) for name in used}):
        if not os.path.isdir(root / folder):
            continue
        there = (os.path.join(folder, n) for n in files_below(root / folder, ("",), depth=0))
        count = sum(is_image(name) and name not in used for name in there)
        if count:
            text = f"{count} images are in no annotation: neither trained nor tested on"
            report.remark("no labels", folder or ".", "", text)
    for split, samples in raw.splits.items():
        count = sum(not sample.objects for sample in samples)
        if count:
            text = f"{count} of {len(samples)} images have none; MMDetection trains on none of them"
            report.remark("no objects", split, "", text)


def _remark_classes(
    contents: Mapping[str, dict], known: Classes, stages: Mapping[str, str], report: Report
) -> None:
    """Classes without objects at all or for training, and names that may mean the same."""
    used = {
        split: {a["category_id"] for a in content["annotations"]}
        for split, content in contents.items()
    }
    everywhere = set().union(*used.values())
    trained = used.get(stages["train"], set())
    for place, where, ids in (
        ("all splits", "have no object", {*known.ids.values()} - everywhere),
        (
            stages["train"],
            "are to be found, but not to be trained on",
            everywhere - trained,
        ),
    ):
        absent = [name for name, number in known.ids.items() if number in ids]
        if contents and absent:
            names = ", ".join(map(shown, absent[:10])) + (", ..." if len(absent) > 10 else "")
            text = f"{len(absent)} of {len(known.ids)} classes {where}: {names}"
            report.remark("unused class", place, "", text)
    similar: dict[str, list[str]] = defaultdict(list)
    for name in known.ids:
        similar["".join(c for c in name.casefold() if c.isalnum()) or name].append(name)
    for names in similar.values():
        if len(names) > 1:
            text = (
                f"{', '.join(map(shown, names))} differ in capitals, spaces or marks only, and are "
                f"different classes: --rename {shown(names[1])}={shown(names[0])} makes them one"
            )
            report.remark("similar classes", "all splits", "", text)


def _check_trainable(content: dict | None, split: str, report: Report) -> bool:
    """Report a split that nothing can be trained on."""
    if content is None:
        return False  # an empty split, reported
    sizes = {image["id"]: min(image["width"], image["height"]) for image in content["images"]}
    full = {a["image_id"] for a in content["annotations"]}
    objects = [a for a in content["annotations"] if not a["iscrowd"] and min(a["bbox"][2:]) >= 1]
    if not full:
        cause = f"none of the {len(sizes)} images has an object that can be used"
    elif not objects:
        count = len(content["annotations"])
        cause = f"all {count} objects are ignored ones, or under 1 px (fractions of the image?)"
    elif max(sizes[number] for number in full) < MIN_SIZE:
        cause = (
            f"all images with objects have a side under {MIN_SIZE} px, and MMDetection's configs "
            "leave these out (filter_cfg.min_size); enlarge them and their boxes"
        )
    else:
        return True
    report.leave_out(InvalidAnnotation("nothing to train on", cause), split)
    return False


def _measurable(
    contents: Mapping[str, dict], stages: Mapping[str, str], report: Report
) -> set[str]:
    """Splits with objects that count; reports those of a stage that have none."""
    found = set()
    for split in dict.fromkeys(stages.values()):
        content = contents.get(split, dict(annotations=[], images=[]))
        if any(not annotation["iscrowd"] for annotation in content["annotations"]):
            found.add(split)
        elif content["images"]:  # an empty split is reported as such
            text = f"none of its {len(content['images'])} images has an object that counts"
            report.leave_out(InvalidAnnotation("nothing to measure", text), split)
    return found


def _originals(form: Layout, root, contents, release, report: Report) -> bool:
    """Whether the layout's own files can be used where they are; what differs is remarked on."""
    if form.differs is None or not release or report.bad:
        return False
    equal = True
    for split, content in contents.items():
        if reason := form.differs(root, split, content):
            file, _ = form.files(split)
            report.remark("converted", file, "", f"{reason}: the converted file is to be used")
            equal = False
    return equal
