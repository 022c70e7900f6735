"""Where configs and weights are: in a file, in this package, or in MMDetection's."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from urllib.parse import urlparse

import torch

PACKAGE = Path(__file__).resolve().parent.parent


def find_config(name: str) -> str:
    """The path of a config: a file, `gdetkd::digits/NAME.py` or `mmdet::faster_rcnn/NAME.py`.

    Raises:
        FileNotFoundError: There is no such file; the message says where it was looked for.
    """
    if name.startswith("mmdet::"):
        spec = importlib.util.find_spec("mmdet")
        path = Path(spec.origin).parent / ".mim" / "configs" / name.removeprefix("mmdet::")
    elif name.startswith("gdetkd::"):
        path = PACKAGE / "configs" / name.removeprefix("gdetkd::")
    else:
        path = Path(name)
        if not path.is_file() and (PACKAGE / "configs" / name).is_file():
            path = PACKAGE / "configs" / name
    return _existing(path, "config", name)


def find_checkpoint(name: str) -> str:
    """The path of a checkpoint: a file, `gdetkd::NAME.pth` (shipped), or a URL (fetched and kept).

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be read.
    """
    if name.startswith(("http://", "https://")):
        # Files of one name in two places are two files.
        place = hashlib.sha256(name.encode()).hexdigest()[:12]
        folder = Path(torch.hub.get_dir()) / "checkpoints" / "gdetkd" / place
        path = folder / Path(urlparse(name).path).name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(name, str(path))
            except OSError as error:
                raise FileNotFoundError(f"checkpoint: cannot fetch {name}: {error}") from error
        return str(path)
    if name.startswith("gdetkd::"):
        path = PACKAGE / "assets" / name.removeprefix("gdetkd::")
    else:
        path = Path(name)
    return _existing(path, "checkpoint", name)


def _existing(path: Path, kind: str, name: str) -> str:
    if not path.is_file():
        where = f" (looked for {path})" if str(path) != name else ""
        raise FileNotFoundError(
            f"{kind}: expected a file, `gdetkd::` or `mmdet::` and a name, or for weights a URL; "
            f"there is no {name!r}{where}"
        )
    return str(path)
