"""Where own data in COCO's layout keep their JSON files and images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gdetkd.datasets.report import InvalidAnnotation, Report
from gdetkd.datasets.splits import role
from gdetkd.datasets.values import files_below, load_json

SAMPLED = 50  # images that are looked for to find a file's folder


def json_files(root: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Split and path of every JSON file that may hold annotations, and files to pass over.

    Those in annotations/; else those of each split's own folder, or one of these above or below
    another one; else those in the root. Where there are files instances_*.json, others are for
    splits that none of these is for.
    """
    files = files_below(root, (".json",), depth=3)
    for belongs in (
        lambda parts: len(parts) == 2 and parts[0].lower() in ("annotations", "labels"),
        lambda parts: len(parts) == 2 and (role(parts[0]) or "coco" in parts[1].lower()),
        lambda parts: len(parts) == 3 and role(parts[0]) != role(parts[1]),
        lambda parts: len(parts) == 1,
    ):
        found = [file for file in files if belongs(file.split(os.sep))]
        if found:
            break
    instances = [file for file in found if os.path.basename(file).startswith("instances_")]
    taken = _named(instances)
    roles = {role(split) for split, _ in taken} | {None} if taken else set()
    others = _named([file for file in found if file not in instances])
    taken += [(split, file) for split, file in others if role(split) not in roles]
    return taken, [file for split, file in others if role(split) in roles]


def _named(files: list[str]) -> list[tuple[str, str]]:
    """Split names from file names; from folders, where every folder has its one file."""
    folders = [_split_folder(os.path.dirname(file)) for file in files]
    if len({*folders}) == len(files) > 1 or any(role(folder) for folder in folders):
        return list(zip(folders, files, strict=True))
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    return [
        (stem.removeprefix("instances_"), file) for stem, file in zip(stems, files, strict=True)
    ]


def _split_folder(folder: str) -> str:
    """The part of a path that is named after a split; else the whole path."""
    return next((part for part in folder.split(os.sep) if role(part)), folder)


def annotation_files(root: Path, report: Report) -> list[tuple[str, str, str]]:
    """Split, annotation file and image folder of every file with boxes.

    A JSON file that holds something else, such as captions, is passed over with a remark if files
    with boxes are there; one that may be broken is left for its reader to report, unless there is
    another one for its split.
    """
    found, others = [], []
    files, passed = json_files(root)
    for file in passed:
        report.remark("other content", file, "", "passed over: instances_*.json are taken")
    for split, file in files:
        try:
            content = load_json(root / file)
        except InvalidAnnotation:
            found.append((split, file, ""))
            continue
        entry = (split, file, _image_folder(root, file, split, content))
        if _has_boxes(content):
            found.append(entry)
        else:
            others.append((*entry, _is_other(content, split)))
    roles = {role(split) for split, _, _ in found} | {None}
    for split, file, folder, is_other in others:
        if found and (is_other or role(split) in roles):
            report.remark("other content", file, "", "holds no boxes in COCO's format: passed over")
        else:
            found.append((split, file, folder))
    return found


def mentions_boxes(path: Path) -> bool:
    """Whether a JSON file has one of COCO's lists, or cannot be read so that nobody knows."""
    try:
        content = load_json(path)
    except InvalidAnnotation:
        return True
    return isinstance(content, dict) and bool({"images", "annotations"} & content.keys())


def _has_boxes(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("categories"), list):
        return False
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not isinstance(content.get("images"), list):
        return False
    return not annotations or any(isinstance(a, dict) and "bbox" in a for a in annotations)


def _is_other(content: Any, split: str) -> bool:
    """Whether it is no broken file of boxes: captions, or the images of a test without any."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if annotations is None:
        return role(split) == "test"
    keys = {"bbox", "segmentation", "category_id"}
    return isinstance(annotations, list) and not any(
        not isinstance(entry, dict) or keys & entry.keys() for entry in annotations
    )


def _image_folder(root: Path, file: str, split: str, content: Any) -> str:
    """The folder that has most of the file's first images; the first one there is, if none."""
    images = content.get("images") if isinstance(content, dict) else None
    names = [
        entry["file_name"]
        for entry in (images if isinstance(images, list) else [])[:SAMPLED]
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    ]
    folders = _folders(root, split, os.path.dirname(file))
    counts = [sum(_exists(root / folder, name) for name in names) for folder in folders]
    return folders[counts.index(max(counts))]


def _exists(folder: Path, name: str) -> bool:
    try:
        return os.path.lexists(folder / name)
    except ValueError:
        return False


def _folders(root: Path, split: str, beside: str) -> list[str]:
    """Folders that images of a split are kept in; capitals and synonyms of its name are equal."""
    found = []
    for parent in (".", "images", "Images", "data"):
        if os.path.isdir(root / parent):
            names = sorted(os.listdir(root / parent), key=lambda name: (name != split, name))
            found += [
                os.path.join(parent, name)
                for name in names
                if os.path.isdir(root / parent / name)
                and (name.lower() == split.lower() or (role(name) and role(name) == role(split)))
            ]
    found += [
        name for name in ("images", "Images", "JPEGImages", "data") if os.path.isdir(root / name)
    ]
    return [os.path.normpath(folder) for folder in (*found, beside or ".", ".")]
