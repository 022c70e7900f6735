"""Detections on picture files: pictures with boxes, and one JSON file of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope

from gdetkd.checkpoints.hub import find_config
from gdetkd.checkpoints.student import trained_classes
from gdetkd.datasets.config_check import class_names, leaves
from gdetkd.datasets.values import files_below, is_image
from gdetkd.detectors.mmdet.building import load_detector, plain_student
from gdetkd.ops.atomic_write import atomic_write

RESULTS = "detections.json"


def picture_files(places: Iterable[str]) -> list[Path]:
    """The pictures among files and folders, in the order given.

    Raises:
        ValueError: A folder has none.
    """
    files: list[Path] = []
    for place in map(Path, places):
        found = [place]
        if place.is_dir():
            found = [place / name for name in files_below(place, ("",)) if is_image(name)]
            if not found:
                raise ValueError(f"{place}: expected pictures in this folder, found none")
        files += found
    return files


def detect_pictures(
    config: str,
    checkpoint: str,
    files: Sequence[Path],
    out: Path,
    threshold: float,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict[str, Any]]:
    """Detect on each picture; write it with its boxes, and the detections of all.

    Args:
        config, checkpoint: As for `load_detector`; the pictures go through the config's test
            pipeline.
        out: Folder to write to. `detections.json` has an entry per picture: `file`, `boxes`
            (x1, y1, x2, y2 in pixels of the picture as it is shown), `scores`, `labels`, best
            first, and `picture`, the one with boxes.
        threshold: The least score of a box that is drawn.

    Raises:
        ValueError: A picture cannot be read, or the weights do not fit.
    """
    loaded = plain_student(Config.fromfile(find_config(config)))
    detector = load_detector(config, checkpoint)
    detector.to("cuda" if torch.cuda.is_available() else "cpu")
    test = next(leaves(loaded.test_dataloader.dataset))
    names = trained_classes(checkpoint) or class_names("test", test)
    steps = [step for step in test.pipeline if "LoadAnnotations" not in str(step["type"])]
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(steps)
    out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for index, file in enumerate(progress(files)):
        pixels = cv2.imread(str(file))
        if pixels is None:
            raise ValueError(f"{file}: expected a picture that OpenCV can read")
        item = pipeline(dict(img_path=str(file), img_id=index))
        data = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        with torch.no_grad():
            instances = detector.test_step(data)[0].pred_instances.cpu()
        order = instances.scores.argsort(descending=True)
        labels = [names[label] for label in instances.labels[order].tolist()]
        entry = dict(
            file=str(file), boxes=instances.bboxes[order].round(decimals=2).tolist(),
            scores=instances.scores[order].tolist(), labels=labels,
            picture=f"{file.stem}_{index:05}.jpg" if len(files) > 1 else f"{file.stem}.jpg",
        )  # fmt: skip
        _draw(pixels, entry, names, threshold)
        cv2.imencode(".jpg", pixels)[1].tofile(out / entry["picture"])
        found.append(entry)
    with atomic_write(out / RESULTS) as sink:
        sink.write(json.dumps(found, indent=1).encode())
    return found


def _draw(pixels: np.ndarray, entry: dict, names: Sequence[str], threshold: float) -> None:
    width = max(1, round(max(pixels.shape) / 500))
    hues = np.linspace(0, 180, len(names), endpoint=False).astype(np.uint8)
    wheel = cv2.cvtColor(
        np.stack([hues, 0 * hues + 220, 0 * hues + 240], -1)[None], cv2.COLOR_HSV2BGR
    )
    colors = dict(zip(names, wheel[0].tolist(), strict=True))
    for box, score, label in zip(entry["boxes"], entry["scores"], entry["labels"], strict=True):
        if score < threshold:
            continue
        x1, y1, x2, y2 = (round(side) for side in box)
        color = colors[label]
        cv2.rectangle(pixels, (x1, y1), (x2, y2), color, width)
        text = f"{label} {score:.2f}"
        cv2.putText(pixels, text, (x1, max(10, y1 - 3)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1,
                    cv2.LINE_AA)  # fmt: skip
