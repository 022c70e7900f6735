"""Every family of three libraries as a student and as a teacher: which train, and how.

A family of MMDetection is a detector with its heads; of the configs that have it a small one stands
for all. Those of torchvision and transformers are the detectors that they list. The networks have
random weights, so the tables show compatibility, not gains.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mmdet
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger

from gdetkd.evaluation.records import environment, read_json_lines
from gdetkd.ops.atomic_write import atomic_write
from gdetkd.reproduce import library_detectors
from gdetkd.reproduce.family_trials import ALONE, ROLES, STEPS, falls, try_family

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
LETTERS = dict(contrastive="C", imitation="F", classification="P", regression="R")
PAGES = Path(__file__).with_name("pages")
SOURCES = dict(
    mmdet="MMDetection's installed configs (a detector with its heads)",
    torchvision="torchvision (`list_models(module=torchvision.models.detection)`)",
    transformers="transformers (what `AutoModelForObjectDetection` makes)",
)
TITLES = dict(mmdet="MMDetection", torchvision="torchvision", transformers="transformers")


# --- Families -------------------------------------------------------------------------------------


def find_families() -> tuple[list[dict[str, Any]], list[str]]:
    """The families of the installed configs, and the folders that have no model.

    A family is `name` (the config that stands for it), `detector`, `heads` and `folders`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    folders = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())
    for path in sorted(CONFIGS.glob("*/*.py")):
        try:
            model = Config.fromfile(path).get("model")
        except (ImportError, OSError):  # of packages that are not installed, or without a base
            continue
        if model:
            found.setdefault(_signature(model), []).append(f"{path.parent.name}/{path.stem}")
    families = [
        dict(
            name=min(names, key=_size_of_name),
            detector=signature[0],
            heads=[head for head in signature[1:] if head],
            folders=sorted({name.split("/")[0] for name in names}),
        )
        for signature, names in found.items()
    ]
    covered = {folder for family in families for folder in family["folders"]}
    families.sort(key=lambda family: family["name"])
    return families, [folder for folder in folders if folder not in covered]


def _signature(model: Mapping[str, Any]) -> tuple[str, ...]:
    head = model.get("roi_head") or {}
    parts = model, model.get("rpn_head"), head, head.get("bbox_head"), model.get("bbox_head")
    return tuple(_type_of(part) for part in parts)


def _type_of(part: Any) -> str:
    if isinstance(part, list | tuple):
        part = part[0]
    kind = (part or {}).get("type", "")
    return getattr(kind, "__name__", kind)


def _size_of_name(name: str) -> tuple[bool, bool, int, str]:
    folder, config = name.split("/")
    small = any(word in config for word in ("tiny", "r18", "r50", "_s_"))
    return not small, folder.replace("_", "-") not in config.replace("_", "-"), len(name), name


# --- Running --------------------------------------------------------------------------------------


def run_families(
    folder: Path, only: Sequence[str] = (), report: Callable[[str], None] = print
) -> None:
    """Try the families that have no record yet, or those that `only` names, in both roles.

    folder: Of the records, JSON lines by library, one per family, written as each ends, and of the
    tables. `only` has patterns of names.

    Raises:
        ValueError: A pattern fits no family.
    """
    register_all_modules()
    MMLogger.get_current_instance().setLevel("ERROR")  # it prints a line per parameter
    of_mmdet, empty = find_families()
    found = dict(mmdet=of_mmdet)
    found |= {
        library: library_detectors.families(library) for library in SOURCES if library not in found
    }
    names = [family["name"] for families in found.values() for family in families]
    for pattern in only:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(
                f"--only: expected names of families or patterns of them, such as 'yolox/*', "
                f"{pattern!r} is none; they are {', '.join(names)}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for library, families in found.items():
        path = folder / f"{library}.jsonl"
        _run_missing(path, families, only, empty if library == "mmdet" else [], report)
        path.with_suffix(".md").write_text(families_page(read_json_lines(path), library))


def _run_missing(
    path: Path,
    families: Sequence[dict[str, Any]],
    only: Sequence[str],
    empty: Sequence[str],
    report: Callable[[str], None],
) -> None:
    recorded = {record["name"] for record in read_json_lines(path)}
    chosen = [
        family
        for family in families
        if any(fnmatch(family["name"], pattern) for pattern in only)
        or (not only and family["name"] not in recorded)
    ]
    made_in, began = environment(), time.time()
    for index, family in enumerate(chosen, 1):
        record = family | try_family(family["name"]) | made_in
        write(path, record | dict(date=datetime.date.today().isoformat(), without_model=empty))
        left = (time.time() - began) / index * (len(chosen) - index)
        texts = ", ".join(f"{role} {cell_text(record[role])}" for role in ROLES)
        report(f"[{index}/{len(chosen)}] {family['name']}: {texts}; {left / 60:.1f} min left")


# --- Records and table ----------------------------------------------------------------------------


def write(path: Path, record: dict[str, Any]) -> None:
    """Put a record in, in the place of the one that its family had."""
    by_name = {each["name"]: each for each in [*read_json_lines(path), record]}
    lines = [json.dumps(by_name[name], sort_keys=True) for name in sorted(by_name)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def works(found: Mapping[str, Any]) -> bool:
    """Whether a role trains: components that fall, and finite steps beside unchanged losses."""
    if "refused" in found:
        return False
    tried = [one for one in found["components"].values() if "refused" not in one]
    finite = found["losses"] and None not in found["losses"]
    return bool(tried and finite and found["own_losses_equal"]) and all(map(falls, tried))


def cell_text(found: Mapping[str, Any]) -> str:
    """One letter per component that a role has; in parentheses where its loss did not fall."""
    if "refused" in found:
        return "refused"
    if None in found["losses"]:
        return "not finite"
    texts = []
    for name, letter in LETTERS.items():
        one = found["components"][name]
        texts.append("–" if "refused" in one else letter if falls(one) else f"({letter})")
    return " ".join(texts) + ("" if found["own_losses_equal"] else " (own losses differ)")


def families_page(records: Sequence[Mapping[str, Any]], library: str = "mmdet") -> str:
    """The table in Markdown, and every reason why something is left out."""
    rows, reasons = [], {}
    for record in records:
        cells = [cell_text(record[role]) for role in ROLES]
        heads = ", ".join(record["heads"])
        rows.append(f"| {record['name']} | {record['detector']} | {heads} | {' | '.join(cells)} |")
        for role, text in _refusals(record):
            reasons.setdefault(text, []).append(f"{record['name']} as {role}")
    boxes = [r for r in records if not _without_boxes(r)]
    counts = {role: sum(works(r[role]) for r in boxes) for role in ROLES}
    text = (PAGES / "pairs.md").read_text()
    if (ending := PAGES / f"pairs_{library}.md").exists():
        text += ending.read_text()
    return text.format(
        library=TITLES[library],
        source=SOURCES[library],
        size="as large as its function makes it" if library == "torchvision" else "small",
        families=len(records),
        with_boxes=len(boxes),
        students=counts["student"],
        teachers=counts["teacher"],
        minutes=sum(record["seconds"] for record in records) / 60,
        alone=ALONE[0][0],
        longer=ALONE[1][0],
        slower=ALONE[2][0],
        steps=STEPS,
        rows="\n".join(rows),
        folders="\n".join(f"- {r['name']}: {', '.join(r['folders'])}" for r in records),
        without_model=", ".join(records[0]["without_model"]) if records else "",
        reasons="\n".join(f"- {', '.join(who)}: {text}" for text, who in reasons.items()),
    )


def _refusals(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for role in ROLES:
        found = record[role]
        for each in [found, *found.get("components", {}).values()]:
            if "refused" in each:
                text = " ".join(each["refused"].split()).removeprefix(f"{role}: ")
                text = re.sub(r"no adapter for \w+", "no adapter for it", text)
                yield role, re.sub(rf"\b{role} \([^)]*\)", f"the {role}", text)


def _without_boxes(record: Mapping[str, Any]) -> bool:
    """Whether a model predicts no boxes with classes in images, which nothing here could change."""
    text = record["teacher"].get("refused", "")
    # transformers lists PP-OCR among its detectors of objects; it predicts a map of text.
    text_maps = record["detector"].startswith("PPOCR")
    return text_maps or "expected a detector of boxes in images" in text
