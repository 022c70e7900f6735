"""The notebooks in a real browser: `make lab` on a copy of them, driven in headless Chromium."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from run_notebooks import FOLDER, notebooks, read

ROOT = FOLDER.parent
SHOTS = ROOT / "work_dirs" / "browser"  # what was seen
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 400  # seconds for what takes a few on an idle machine


def find_browser() -> str | None:
    """Where a Chromium or Chrome is installed."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def need_browser() -> None:
    """Skip the test where there is no browser; fail it where one is required."""
    if find_browser() is None:
        reason = "no Chromium or Chrome; on Debian: apt-get install chromium"
        if os.environ.get("GDETKD_BROWSER") == "required":
            pytest.fail(f"GDETKD_BROWSER=required: {reason}")
        pytest.skip(reason)


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[Laboratory]:
    """JupyterLab as `make lab` starts it, on copies of the notebooks below `folder`, and a browser.

    Nothing of the user's settings, no other port than a free one, nothing from outside.
    """
    with start_server(folder) as address, sync_playwright() as driver:
        options = dict(executable_path=find_browser(), args=["--disable-dev-shm-usage"])
        browser = driver.chromium.launch(**options)
        try:
            yield Laboratory(folder / "notebooks", address, browser)
        finally:
            browser.close()


@contextlib.contextmanager
def start_server(folder: Path) -> Iterator[str]:
    """Run `make lab`; give the address that it opens in a desktop's browser."""
    (folder / "notebooks").mkdir()
    for path in notebooks():
        notebook = read(path)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / path.name)
    shutil.copy(ROOT / "Makefile", folder)
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    variables = {name: str(folder / name.lower()) for name in names}
    (folder / "open").write_text('#!/bin/sh\nprintf %s "$1" > "$0ed"\n')  # a desktop's browser
    (folder / "open").chmod(0o700)
    opener = f"{shlex.quote(str(folder / 'open'))} %s"
    server = dict(allow_root=True, port=0, ip="127.0.0.1", open_browser=True, browser=opener)
    settings = {
        "JUPYTER_CONFIG_DIR/jupyter_server_config.json": dict(ServerApp=server),
        # Else it asks whether it may fetch news, and takes cells out of sight off the page.
        "JUPYTERLAB_SETTINGS_DIR/@jupyterlab/apputils-extension/notification.jupyterlab-settings":
            dict(fetchNews="false", checkForUpdates=False),
        "JUPYTERLAB_SETTINGS_DIR/@jupyterlab/notebook-extension/tracker.jupyterlab-settings":
            dict(windowingMode="none"),
    }  # fmt: skip
    for name, content in settings.items():
        variable, _, rest = name.partition("/")
        file = Path(variables[variable]) / rest
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    command = ["make", "-o", "env", "lab", f"BIN={Path(sys.executable).parent}"]
    log = folder / "lab.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        opened = folder / "opened"
        until(
            lambda: opened.exists() and opened.read_text() or process.poll() is not None,
            lambda: f"JupyterLab has not opened a page:\n{log.read_text()}",
        )
        assert process.poll() is None, log.read_text()
        yield opened.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            os.killpg(process.pid, signal.SIGKILL)


class Laboratory:
    """A server's notebooks, and the browser to open them in."""

    def __init__(self, folder: Path, address: str, browser: Browser) -> None:
        self.folder = folder
        self._address, self._browser = address, browser

    @contextlib.contextmanager
    def page(self, name: str, address: str | None = None) -> Iterator[Page]:
        """A page of the browser, by default what `make lab` opens; what was last seen is kept."""
        page = self._browser.new_page(viewport=dict(width=1280, height=900))
        page.set_default_timeout(1000 * PATIENCE)
        try:
            page.goto(address or self._address)
            page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
            page.wait_for_selector("#jp-main-statusbar >> text=Idle")  # the kernel listens
            yield page
        finally:
            keep(page, f"{name}_last")
            page.close()

    @contextlib.contextmanager
    def notebook(self, stem: str) -> Iterator[OpenNotebook]:
        """One of the notebooks by itself; at the end its kernel is shut down."""
        redirect = Path(urlsplit(self._address).path).read_text()
        host, token = re.search(r"(http://[^/]+)/.*?token=(\w+)", redirect).groups()
        with self.page(stem[:2], f"{host}/lab/tree/{stem}.ipynb?token={token}&reset") as page:
            try:
                yield OpenNotebook(page, self.folder / f"{stem}.ipynb")
            finally:
                # By the REST API, as the menu does, without its question.
                page.evaluate(
                    """async () => {
                    const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
                    const sessions = await (await fetch('/api/sessions')).json();
                    for (const session of sessions)
                        await fetch(`/api/sessions/${session.id}`,
                            {method: 'DELETE', headers: {'X-XSRFToken': token}});
                    }"""
                )


class OpenNotebook:
    """A notebook in the page."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self._cells = read(path).cells

    def run(self, index: int) -> Locator:
        """Run a cell by clicking into it and pressing Ctrl-Enter; give its outputs."""
        cell = self.page.locator(".jp-Notebook > .jp-WindowedPanel-outer .jp-Cell").nth(index)
        cell.scroll_into_view_if_needed()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        prompt, outputs = cell.locator(".jp-InputPrompt"), cell.locator(".jp-OutputArea").first
        done = "(text) => /\\[\\d+\\]/.test(text)"
        until(
            lambda: self.page.evaluate(done, prompt.inner_text()),
            lambda: f"cell {index} has not ended:\n{self._cells[index].source}",
        )
        error = outputs.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert not error.count(), f"{self._cells[index].source}\n{error.first.inner_text()}"
        return outputs

    def run_for(self, text: str) -> Locator:
        """Run the cell with that text, and before it those cells that it stands on."""
        sources = [cell.source if cell.cell_type == "code" else "" for cell in self._cells]
        (target,) = (index for index, source in enumerate(sources) if text in source)
        for index in needed(sources, target):
            self.run(index)
        return self.run(target)


def needed(sources: list[str], target: int) -> list[int]:
    """The cells before `target` that give a name which it, or a cell that it needs, uses."""
    wanted, found = _names(sources[target])[0], []
    for index in reversed(range(target)):
        used, given, changed = _names(sources[index])
        if wanted & (given | changed):
            found.insert(0, index)
            wanted = (wanted - given) | used
    return found


def _names(source: str) -> tuple[set[str], set[str], set[str]]:
    """What a cell uses, gives (assigns, imports, defines) and changes (`name[...] = ...`)."""
    used, given, changed = set(), set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else given).add(node.id)
        elif isinstance(node, ast.FunctionDef):
            given.add(node.name)
        elif isinstance(node, ast.alias):
            given.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name):
                changed.add(node.value.id)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            used.add(node.target.id)
    return used, given, changed


# Pictures


def pixels(shown: Locator) -> np.ndarray:
    """What the browser has painted for an element: (h, w, 3), in [0, 255]."""
    return np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB"), dtype=float)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels that differ visibly; 1 for another size."""
    if one.shape != other.shape:
        return 1.0
    return float((np.abs(one - other).max(-1) > 16).mean())


def picture_once(shown: Locator, wanted: Callable[[np.ndarray], bool], what: str) -> np.ndarray:
    """The picture as soon as it is as wanted and stands still."""
    seen: list[np.ndarray] = []

    def look() -> bool:
        seen.append(pixels(shown))
        still = len(seen) > 1 and difference(seen[-1], seen[-2]) == 0
        return still and wanted(seen[-1])

    until(look, lambda: f"the picture never became {what}")
    return seen[-1]


def keep(page: Page, name: str) -> None:
    """Keep a screenshot of the page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def until(condition: Callable, otherwise: Callable[[], str], seconds: float = PATIENCE):
    """Wait for a condition and give its value.

    Raises:
        TimeoutError: It has not come, with what `otherwise` says.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(otherwise())
        time.sleep(0.2)
    return value
