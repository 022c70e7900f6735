"""What an installation with one extra can do: `python tests/check_extra.py EXTRA`, '' for none.

Run by the workflow in a bare environment for each extra: imports, and the test files that need it.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

TESTS = {
    "": ["test_losses_contrastive.py", "test_theory.py", "test_detectors_torchvision_rcnn.py"],
    "mmdet": ["test_detectors_mmdet_distilled.py"],
    "transformers": ["test_detectors_transformers.py"],
    "onnx": ["test_export_onnx.py"],
    "notebooks": ["test_similarity.py"],
    "photos": ["test_photos.py"],
}


def main(extra: str) -> int:
    import gdetkd.losses  # noqa: F401
    from gdetkd import Distiller  # noqa: F401

    if extra in ("", "transformers", "onnx") and find_spec("mmdet"):
        print(f"expected an environment without mmdet for the extra {extra!r}, found one")
        return 1
    subprocess.run(["gdetkd", "--help"], check=True, stdout=subprocess.DEVNULL)
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", *(str(folder / name) for name in TESTS[extra])]
    if find_spec("mmdet") is None:  # what the fixtures of all tests need
        command.append("--noconftest")
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
