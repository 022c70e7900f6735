"""Write the hashes of new pins: `.venv/bin/python tests/lock_requirements.py`.

In requirements.txt, add a pin, or change one and remove its hash; then run this. pip resolves those
without a hash for Linux on x86_64, where all tests run, and the SHA-256 of the wheel that it would
install goes below each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
PINNED = re.compile(r"^([\w.-]+)==.*\\\n    --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


def without_hashes(text: str) -> list[str]:
    """The lines of requirements.txt: pins, comments, options of pip."""
    lines = [line.rstrip("\\ ") for line in text.splitlines()]
    return [line for line in lines if not line.startswith("    --hash=")]


def known_hashes(text: str) -> dict[str, str]:
    """The hashes that are there, by the package's name."""
    return {canonicalize_name(name): digest for name, digest in PINNED.findall(text)}


def name_of(line: str) -> str | None:
    """The package that a line pins."""
    name, pinned, _ = line.partition("==")
    return canonicalize_name(name) if pinned and not line.startswith("#") else None


def resolve(pins: list[str]) -> dict[str, str]:
    """The SHA-256 of the wheel that pip would install for each pin, by the package's name."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--only-binary", ":all:", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "-r", "/dev/stdin"], input="\n".join(pins), stdout=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    return {
        canonicalize_name(wheel["metadata"]["name"]): wheel["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for wheel in json.loads(done.stdout)["install"]
    }


def locked(lines: list[str], hashes: dict[str, str]) -> str:
    """The lines with a hash below every pin."""
    ends = {
        name: f" \\\n    --hash=sha256:{hashes[name]}"
        for name in map(name_of, lines)
        if name in hashes
    }
    return "".join(f"{line}{ends.get(name_of(line), '')}\n" for line in lines)


if __name__ == "__main__":
    text = REQUIREMENTS.read_text()
    lines, hashes = without_hashes(text), known_hashes(text)
    new = [line for line in lines if name_of(line) not in (None, *hashes)]
    REQUIREMENTS.write_text(locked(lines, hashes | (resolve(new) if new else {})))
