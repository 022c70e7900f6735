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


def drawn(page, explorer, name):
    """A number that the explorer shows, once it has drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return int(explorer.get_attribute(f"data-{name}"))


def test_proposals_are_picked_and_brushed(lab):
    with lab.notebook("01_proposal_similarities") as notebook:
        page = notebook.page
        explorer = notebook.run_for("ProposalExplorer(").locator(".gdetkd-explorer")
        page.wait_for_selector(".gdetkd-explorer[data-drawn]")
        sections = explorer.locator("section")
        assert sections.locator("h3").all_inner_texts() == ["teacher", "baseline", "distilled"]
        sections.nth(1).focus()
        page.keyboard.press("ArrowRight")  # JupyterLab would go to another cell
        page.keyboard.press("ArrowDown")
        first, neighbor = (drawn(page, explorer, name) for name in ("picked", "peek"))
        assert min(first, neighbor) >= 0 and first != neighbor
        assert page.evaluate("document.activeElement.dataset.detector") == "1"
        page.keyboard.press("Enter")
        assert drawn(page, explorer, "picked") == neighbor
        browser.keep(page, "01_neighbor")

        points = sections.nth(2).locator(".embedding")
        points.scroll_into_view_if_needed()
        box = points.bounding_box()
        right, below = box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        for x, y in ((right, box["y"] + 2), (right, below), (box["x"] + 2, below)):
            page.mouse.move(x, y, steps=3)
        page.mouse.up()
        assert drawn(page, explorer, "brushed") == 768  # all of them
        page.keyboard.press("Escape")
        assert (drawn(page, explorer, "brushed"), drawn(page, explorer, "picked")) == (0, -1)

        scene = sections.nth(0).locator(".scene")
        scene.scroll_into_view_if_needed()
        box = scene.bounding_box()
        spots = [(x / 8, y / 8) for x in range(1, 8) for y in range(1, 8)]
        for x, y in spots:  # until one lies in a box of the picture
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if drawn(page, explorer, "picked") >= 0:
                break
        assert drawn(page, explorer, "picked") >= 0
        assert explorer.locator(".card tr").count() == 4  # what each of the three says
        browser.keep(page, "01_picked_on_a_picture")


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
        with lab.notebook("11_launch") as notebook:
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
