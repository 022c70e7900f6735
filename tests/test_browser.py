"""What a reader touches, in JupyterLab in headless Chromium: sliders, buttons, moving pictures."""

import pytest

from gdetkd.launch import launch

browser = pytest.importorskip("browser", reason="pip install playwright")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    browser.need_browser()
    with browser.laboratory(tmp_path_factory.mktemp("lab")) as laboratory:
        yield laboratory


def test_make_lab_opens_the_tour(lab):
    with lab.page("00") as page:
        page.wait_for_selector(".jp-RenderedMarkdown h1 >> text=Tour")
        assert page.url.endswith("/lab/tree/00_tour.ipynb")


def move(shown, key):
    """Focus the first slider and press a key; give its readout."""
    shown.locator(".noUi-handle").first.press(key)
    return shown.locator(".widget-readout").first.inner_text()


def test_a_proposal_is_picked(lab):
    with lab.notebook("01_proposal_similarities") as notebook:
        widget = notebook.run_for("explore_proposals(").locator(".gdetkd-proposals")
        picture = widget.locator("img")
        first = browser.picture_once(picture, lambda seen: seen.std() > 20, "a picture")
        browser.keep(notebook.page, "01_before")
        assert move(widget, "ArrowRight") == "1"
        other = browser.picture_once(
            picture, lambda seen: browser.difference(first, seen) > 0.01, "another one"
        )
        browser.keep(notebook.page, "01_another_proposal")
        assert move(widget, "ArrowLeft") == "0"
        browser.picture_once(
            picture, lambda seen: browser.difference(first, seen) == 0, "the first one again"
        )
        widget.locator("button", has_text="the most similar").click()
        browser.picture_once(
            picture,
            lambda seen: min(browser.difference(x, seen) for x in (first, other)) > 0.05,
            "another view",
        )
        browser.keep(notebook.page, "01_most_similar")


def test_a_temperature_is_moved(lab):
    with lab.notebook("02_contrastive") as notebook:
        widget = notebook.run_for("explore_temperature(").locator(".gdetkd-temperature")
        picture = widget.locator("img")
        first = browser.picture_once(picture, lambda seen: seen.std() > 5, "a picture")
        browser.keep(notebook.page, "02_before")
        handle = widget.locator(".noUi-handle").nth(1)
        readout = widget.locator(".widget-readout").nth(1)
        before = float(readout.inner_text())
        box = handle.bounding_box()
        y = box["y"] + box["height"] / 2
        notebook.page.mouse.move(box["x"] + box["width"] / 2, y)
        notebook.page.mouse.down()
        notebook.page.mouse.move(box["x"] + box["width"] / 2 + 40, y, steps=5)
        notebook.page.mouse.up()
        browser.picture_once(
            picture, lambda seen: browser.difference(first, seen) > 0.01, "another one"
        )
        assert float(readout.inner_text()) > before
        browser.keep(notebook.page, "02_higher_temperature")


def test_a_training_is_launched_stopped_and_resumed(lab):
    runs = []
    try:
        with lab.notebook("08_launch") as notebook:
            panel = notebook.run_for("run.show()").locator(".gdetkd-run")
            runs += [launch.attach(path.parent) for path in lab.folder.rglob("launch.json")]
            (run,) = runs
            assert run.status() == "running"
            picture = panel.locator("img")
            empty = browser.picture_once(picture, lambda seen: seen.size > 0, "a picture")
            run.wait(step=6, seconds=browser.PATIENCE)
            browser.until(
                lambda: browser.difference(empty, browser.pixels(picture)) > 0.002,
                lambda: "the curve did not move",
            )
            browser.keep(notebook.page, "08_running")
            panel.locator("button", has_text="Stop").click()
            panel.locator("b", has_text="stopped").wait_for()
            stopped = browser.picture_once(picture, lambda seen: True, "still")
            assert run.status() == "stopped"
            last = run.scalars().index[-1]
            browser.keep(notebook.page, "08_stopped")
            panel.locator("button", has_text="Resume").click()
            panel.locator("b", has_text="running").wait_for()
            run.wait(step=last + 4, seconds=browser.PATIENCE)
            browser.until(
                lambda: browser.difference(stopped, browser.pixels(picture)) > 0.002,
                lambda: "the curve did not go on",
            )
            browser.keep(notebook.page, "08_resumed")
    finally:
        for run in runs:
            run.stop()
