"""COCO's archive of annotations, where it still lies beside what was unpacked from it."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from gdetkd.datasets.report import InvalidAnnotation, Report

ARCHIVE = "annotations_trainval2017.zip"
# Not published by the authors; MLPerf and others check downloads by it.
ARCHIVE_MD5 = "f4bbac642086de4f52a3fdda2de5fa2c"


def check_archive(root: Path, files: Iterable[str], report: Report) -> None:
    """Report an archive that is not the release's, and files that are not the ones in it."""
    if not os.path.isfile(root / ARCHIVE):
        return
    with open(root / ARCHIVE, "rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != ARCHIVE_MD5:
        text = f"MD5 {digest}, the release's is {ARCHIVE_MD5}: fetch it again"
        report.leave_out(InvalidAnnotation("checksum", text), ARCHIVE)
        return
    with zipfile.ZipFile(root / ARCHIVE) as archive:
        for name in files:
            crc = 0
            with open(root / name, "rb") as file:
                while block := file.read(1 << 24):
                    crc = zlib.crc32(block, crc)
            if crc != archive.getinfo(name).CRC:
                text = f"differs from the one in {ARCHIVE}: unpack it again"
                report.leave_out(InvalidAnnotation("checksum", text), name)
