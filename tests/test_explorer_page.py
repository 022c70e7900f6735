"""The proposal explorer in a real browser, from disk: what a reader clicks, drags and types."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gdetkd.viz.explorer import front_end

browser = pytest.importorskip("browser", reason="pip install playwright")
pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "explorer.html"  # the shipped one, 2,000 proposals
PINK = (0xCC, 0x79, 0xA7)
PAD, BAND = 12, 6  # px, of explorer.js
MAXIMUM = 3e6  # bytes of the page


@pytest.fixture(scope="module")
def data():
    text = PAGE.read_text()
    assert len(text.encode()) < MAXIMUM
    return json.loads(re.search(r'id="gdetkd-data">(.+?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def chromium():
    browser.need_browser()
    with browser.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=browser.find_browser(), args=["--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(chromium):
    opened = chromium.new_page(viewport=dict(width=1280, height=1000))
    opened.asked, opened.errors = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    show(opened)
    yield opened
    assert opened.errors == []
    assert {url.partition(":")[0] for url in opened.asked} <= {"file", "data"}
    opened.close()


def show(page, link=""):
    page.goto("about:blank")
    page.goto(PAGE.as_uri() + link)
    page.wait_for_selector("[data-drawn]")


def state(page, name):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return int(page.locator("#gdetkd-explorer").get_attribute(f"data-{name}"))


def canvas(page, kind, detector):
    """The canvas, scrolled to, and its left, top and width."""
    found = page.locator(f"section .{kind}").nth(detector)
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    return found, box["x"], box["y"], box["width"]


def place(page, data, detector, proposal):
    _, x, y, width = canvas(page, "embedding", detector)
    each = data["detectors"][detector]
    return (x + PAD + each["x"][proposal] * (width - 2 * PAD),
            y + PAD + each["y"][proposal] * (width - 2 * PAD))  # fmt: skip


def pick(page, data, detector, proposal):
    page.mouse.click(*place(page, data, detector, proposal))
    page.mouse.move(2, 2)
    return state(page, "picked")


def drag(page, x1, y1, x2, y2):
    page.mouse.move(x1, y1)
    page.mouse.down()
    for x, y in ((x2, y1), (x2, y2), (x1, y2)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.mouse.move(2, 2)


def pink(found):
    """How many pixels of a canvas have the color of the picked proposal."""
    return (np.abs(browser.pixels(found) - PINK).max(-1) < 12).sum()


def lone(data, detector):
    """The proposal on an object whose point has most room around it."""
    each = data["detectors"][detector]
    points = np.stack([each["x"], each["y"]], 1)
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distance, 9)
    background = np.array(data["label"]) == len(data["classes"])
    return int(np.argmax(np.where(background, 0, distance.min(1))))


def nearest(data, detector, proposal):
    """The neighbors of other images and their cosines, by NumPy."""
    count, each = len(data["image"]), data["detectors"][detector]
    rows = np.frombuffer(base64.b64decode(each["vectors"]), np.int8).reshape(count, -1)
    rows = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    cosines = rows @ rows[proposal]
    cosines[np.array(data["image"]) == data["image"][proposal]] = -2
    order = np.argsort(-cosines)[:12]
    return order.tolist(), cosines[order]


def test_the_shipped_page_has_the_front_end_of_the_package():
    """After a change of it: the commands in CONTRIBUTING.md."""
    text = PAGE.read_text()
    assert front_end("js") in text and front_end("css") in text


def test_2000_proposals_are_drawn_within_a_second(page, data):
    assert len(data["image"]) == 2000
    # Seconds of work of the page's thread, which other work on the machine does not stretch.
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", dict(timeDomain="threadTicks"))

    def worked():
        metrics = client.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    start = worked()
    page.reload()
    page.wait_for_selector("[data-drawn]")
    spent = worked() - start
    print(f"first picture: {spent:.2f} s of work, {state(page, 'drawn')} ms from opening")
    assert 0.05 < spent < 1
    for kind in ("embedding", "matrix", "scene"):
        assert browser.pixels(canvas(page, kind, 2)[0]).std() > 10


def test_a_proposal_is_picked_in_all_views_of_all_detectors(page, data):
    views = [
        canvas(page, kind, n)[0] for kind in ("embedding", "matrix", "scene") for n in range(3)
    ]
    assert max(pink(view) for view in views) < 10
    proposal = lone(data, 1)
    assert pick(page, data, 1, proposal) == proposal
    assert all(pink(view) > 30 for view in views)
    text = page.locator(".card").inner_text()
    assert data["images"][data["image"][proposal]]["name"] in text
    rows = page.locator(".card tr").all_inner_texts()[1:]
    for row, each in zip(rows, data["detectors"], strict=True):
        says = [*data["classes"], "background"][each["said"][proposal]]
        same = sum(data["label"][n] == data["label"][proposal]
                   for n in nearest(data, data["detectors"].index(each), proposal)[0])  # fmt: skip
        mark = "✓" if each["said"][proposal] == data["label"][proposal] else "✗"
        cells = row.split("\t")
        assert cells[:3] == [each["name"], f"{mark} {says}", f"{each['score'][proposal]:.2f}"]
        assert int(cells[4]) == same
    show(page, f"#{proposal}")  # its address
    assert state(page, "picked") == proposal


def test_neighbors_are_the_most_similar_of_other_images(page, data):
    proposal = lone(data, 0)
    for detector in range(3):
        assert pick(page, data, 0, proposal) == proposal
        order, _ = nearest(data, detector, proposal)
        _, x, y, width = canvas(page, "neighbors", detector)
        page.mouse.move(x + 2.5 * width / 6, y + width / 12)  # the third one is compared
        assert state(page, "peek") == order[2]
        page.mouse.click(x + 2.5 * width / 6, y + width / 12)  # and picked
        assert state(page, "picked") == order[2]


def test_the_keyboard_does_it_all(page, data):
    page.locator("section").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.detector") == "1"
    page.keyboard.press("ArrowRight")  # nothing is picked yet: the first one
    first = state(page, "picked")
    assert first == data["order"][0]
    order, cosines = nearest(data, 1, first)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert state(page, "peek") == order[1]
    assert f"{cosines[1]:.2f}" in page.locator(".card tr").nth(2).inner_text()
    page.keyboard.press("ArrowLeft")
    assert state(page, "peek") == order[0] and state(page, "picked") == first
    page.keyboard.press("Enter")
    assert state(page, "picked") == order[0]
    page.keyboard.press("Escape")
    assert (state(page, "picked"), state(page, "peek"), state(page, "brushed")) == (-1, -1, 0)


def test_brushing_works_in_every_view(page, data):
    label, image = np.array(data["label"]), np.array(data["image"])
    page.locator("button[data-label='7']").click()
    assert state(page, "brushed") == (label == 7).sum()
    assert f"{(label == 7).sum()} proposals" in page.locator(".card").inner_text()
    page.keyboard.press("Escape")

    _, x, y, width = canvas(page, "embedding", 2)  # the left upper quarter
    each = data["detectors"][2]
    drag(page, x + 1, y + 1, x + width / 2, y + width / 2)
    limit = (width / 2 - PAD) / (width - 2 * PAD)
    inside = (np.array(each["x"]) < limit) & (np.array(each["y"]) < limit)
    assert abs(state(page, "brushed") - inside.sum()) <= 2  # a mouse is at whole pixels
    faded = browser.pixels(canvas(page, "embedding", 0)[0])
    page.keyboard.press("Escape")
    state(page, "brushed")
    assert browser.difference(faded, browser.pixels(canvas(page, "embedding", 0)[0])) > 0.02

    _, x, y, width = canvas(page, "matrix", 0)  # the rows of the first tenth
    drag(page, x + BAND + 1, y + BAND + 1, x + width / 10, y + width / 10)
    assert 15 < state(page, "brushed") < 30  # of 240
    page.keyboard.press("Escape")

    _, x, y, width = canvas(page, "scene", 1)  # the whole first picture
    drag(page, x + 1, y + 1, x + width - 1, y + width - 1)
    assert state(page, "brushed") == (image == 0).sum()


def test_a_box_is_picked_on_the_picture(page, data):
    boxes = np.array(data["box"]).reshape(-1, 4)
    here = np.flatnonzero(np.array(data["image"]) == 0)
    areas = (boxes[here, 2:] - boxes[here, :2]).prod(1)
    smallest = here[areas.argmin()]
    _, x, y, width = canvas(page, "scene", 2)
    center = (boxes[smallest, :2] + boxes[smallest, 2:]) / 2 * width / 128
    page.mouse.click(x + center[0], y + center[1])
    assert state(page, "picked") == smallest


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_it_fits_a_screen_and_a_phone(chromium, data, width, scheme):
    page = chromium.new_page(viewport=dict(width=width, height=1500), color_scheme=scheme)
    show(page)
    assert pick(page, data, 0, lone(data, 0)) == lone(data, 0)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = browser.pixels(page.locator("#gdetkd-explorer"))[-1, -1].max() < 60
    assert dark == (scheme == "dark")
    browser.keep(page, f"explorer_{width}")
    page.close()
