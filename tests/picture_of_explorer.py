"""Photograph docs/explorer.html for the README: `.venv/bin/python tests/picture_of_explorer.py`.

Picked is a proposal that the baseline gets wrong, teacher and distilled student right.
"""

import io
import json
import re
from pathlib import Path

from browser import find_browser
from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parents[1] / "docs" / "explorer.html"
SIZE = dict(width=1280, height=860)


def telling(data: dict) -> int:
    """The one of which all three are surest."""
    teacher, baseline, distilled = data["detectors"]
    correct = [
        i for i, label in enumerate(data["label"])
        if label < len(data["classes"]) and teacher["said"][i] == distilled["said"][i] == label
        and baseline["said"][i] not in (label, len(data["classes"]))
    ]  # fmt: skip
    return max(correct, key=lambda i: sum(d["score"][i] for d in data["detectors"]))


def main() -> None:
    text = re.search(r'id="gdetkd-data">(.+?)</script>', PAGE.read_text(), re.DOTALL)[1]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_browser())
        page = chromium.new_page(viewport=SIZE)
        page.goto(f"{PAGE.as_uri()}#{telling(json.loads(text))}")
        page.wait_for_selector("[data-drawn]")
        page.wait_for_timeout(1000)  # until the crops are decoded
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        chromium.close()
    shot.quantize(256).save(PAGE.with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
