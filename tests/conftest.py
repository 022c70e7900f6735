"""What every test starts from: few threads and no window; a tiny data set and a tiny teacher."""

import functools
import gc
import os

# Before torch is loaded, and for the trainings that tests start: several threads in each of several
# processes fight for the cores, and detectors as small as the tests' gain nothing from them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))
matplotlib.use("Agg")
# For every `mmdet::` in a config, MMEngine reads a hundred metafiles: once is enough.
_path = Config._get_cfg_path
_external = functools.cache(lambda name: _path(name, ""))
Config._get_cfg_path = staticmethod(
    lambda name, file: _external(name) if "::" in name else _path(name, file)
)


def pytest_collection_modifyitems(items):
    """Files with slow tests first: two workers then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """MMEngine collects garbage for every data set; what was imported need not be walked then."""
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


def pytest_runtest_setup(item):
    """Names are looked up in MMDetection first, whatever Runner an earlier test has built."""
    init_default_scope("mmdet")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The folder of a digits data set of 16 + 8 images."""
    from gdetkd.datasets.digits import build_digits

    root = tmp_path_factory.mktemp("digits")
    build_digits(root, splits={"train": 16, "val": 8})
    return root


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Config and weights of a teacher that differs from `helpers.faster_rcnn()` in every width."""
    from helpers import faster_rcnn, save_detector

    config = faster_rcnn(base=6, channels=12, fc=24)
    return save_detector(config, tmp_path_factory.mktemp("teacher") / "teacher.pth")


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """A teacher with heads as wide as the student's, for head transfer."""
    from helpers import faster_rcnn, save_detector

    return save_detector(faster_rcnn(base=6), tmp_path_factory.mktemp("twin") / "twin.pth")


@pytest.fixture
def small_benchmarks(monkeypatch):
    """Shapes that take no time, in the places of those that are measured."""
    from dataclasses import replace

    from gdetkd.benchmarks import contrastive, imitation, measure

    tiny = contrastive.TINY
    monkeypatch.setattr(contrastive, "PAPER", tiny)
    monkeypatch.setattr(contrastive, "SHAPES", [tiny, replace(tiny, N=16), replace(tiny, K=128)])
    monkeypatch.setattr(contrastive, "CHUNKS", (2, 4))
    monkeypatch.setattr(contrastive.precision, "__defaults__", (tiny, "cpu"))
    monkeypatch.setattr(contrastive.chunks, "__defaults__", (tiny,))
    monkeypatch.setattr(imitation, "PAPER", imitation.TINY)
    monkeypatch.setattr(imitation, "SHAPES", [imitation.TINY])
    monkeypatch.setattr(imitation.precision, "__defaults__", (imitation.TINY, "cpu"))
    monkeypatch.setattr(measure, "peak_bytes", lambda *_: 2_000_000)  # no processes
