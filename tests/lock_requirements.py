"""Renew the hashes in requirements.txt: `.venv/bin/python tests/lock_requirements.py`.

The pins stay as they are: change those by hand, then run this. pip resolves each for Linux on
x86_64, where all tests run, and writes the SHA-256 of the wheel that it would install. This takes
minutes, since pip reads the metadata of every wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def without_hashes(text: str) -> list[str]:
    """The lines of requirements.txt: pins, comments, options of pip."""
    lines = [line.rstrip("\\ ") for line in text.splitlines()]
    return [line for line in lines if not line.startswith("    --hash=")]


def hashes(pins: str) -> dict[str, str]:
    """The SHA-256 of the wheel that pip would install for each pin, by the package's name."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--quiet", "--report", "-", "-r", "/dev/stdin"]
    done = subprocess.run(command, input=pins, stdout=subprocess.PIPE, text=True, check=True)
    return {
        canonicalize_name(wheel["metadata"]["name"]): wheel["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for wheel in json.loads(done.stdout)["install"]
    }


def locked(lines: list[str], found: dict[str, str]) -> str:
    """The lines with a hash below every pin."""
    text = ""
    for line in lines:
        name, pinned, _ = line.partition("==")
        known = found.get(canonicalize_name(name)) if pinned and line[0] != "#" else None
        text += f"{line} \\\n    --hash=sha256:{known}\n" if known else f"{line}\n"
    return text


if __name__ == "__main__":
    pins = without_hashes(REQUIREMENTS.read_text())
    REQUIREMENTS.write_text(locked(pins, hashes("\n".join(pins))))
