"""`make site`: every page without a kernel or a network, from disk, in a real browser."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

browser = pytest.importorskip("browser", reason="pip install playwright")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
WIDTHS = 1280, 390  # of a screen and of a phone


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a missing page, a dead link to one, or a bad docstring fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = f"-m sphinx --quiet --fail-on-warning --keep-going -c docs . {folder / 'html'}"
    command += f" -d {folder / 'doctrees'}"
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder / "html"


@pytest.fixture(scope="module")
def page(site):
    browser.need_browser()
    with browser.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser.find_browser())
        yield chromium.new_page()
        chromium.close()


def test_every_page_is_whole_and_needs_no_network(site, page):
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    pages = sorted(path for path in site.rglob("*.html") if "_modules" not in path.parts)
    assert len(pages) > 30
    for path in pages:
        page.goto(path.as_uri())
        targets = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
        for target in {urlsplit(target)[:3] for target in targets if target.startswith("file:")}:
            assert Path(unquote(target[2])).exists(), f"{path.name} links to {target[2]}"
        broken = "images => images.filter(image => !image.naturalWidth).map(image => image.src)"
        page.wait_for_load_state()
        assert page.eval_on_selector_all("img:not([loading=lazy])", broken) == []
        assert page.locator("p", has_text="| — |").count() == 0, f"{path.name}: a table as text"
    assert [address for address in asked if not address.startswith("file:")] == []
    assert errors == []


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_a_screen_and_a_phone(site, page, width):
    page.set_viewport_size(dict(width=width, height=900))
    wide = {}
    for path in sorted(site.rglob("*.html")):
        if "_modules" not in path.parts:
            page.goto(path.as_uri())
            if (found := page.evaluate("document.documentElement.scrollWidth")) > width:
                wide[path.name] = found
    assert not wide


def test_formulas_are_drawn_without_a_script(site, page):
    page.goto((site / "notebooks/04_proofs.html").as_uri())
    assert page.locator("math").count() > 30
    assert page.locator("math mfrac").first.bounding_box()["height"] > 20


def test_the_search_answers_from_disk(site, page):
    page.goto((site / "search.html").as_uri() + "?q=temperature")
    page.wait_for_selector("ul.search li a >> text=Contrastive distillation")
