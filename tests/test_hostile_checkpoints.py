"""Hostile and damaged files through every entry, by path and by URL: nothing runs, one sentence.

The URLs are served on the loopback address; nothing leaves the machine.
"""

import functools
import hashlib
import http.server
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from helpers import build, faster_rcnn, run_config
from hostile_checkpoints import damaged, explosive, not_resumable, payload
from mmdet.apis import DetInferencer, init_detector
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint

from gdetkd.checkpoints.hub import fetch, find_checkpoint
from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.checkpoints.student import export_student
from gdetkd.cli import main
from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.evaluation.pictures import detect_pictures
from gdetkd.evaluation.testing import detections
from gdetkd.evaluation.testing import test as evaluate
from gdetkd.launch.compose import compose
from gdetkd.training.config import load_config
from gdetkd.training.runner import train


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder, and the URL under which it is served."""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    return tmp_path_factory.mktemp("downloaded")


@pytest.fixture
def downloads(downloaded, monkeypatch):
    """Tests that share their downloads, so that every file is fetched once."""
    monkeypatch.setenv("TORCH_HOME", str(downloaded))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Downloads of a test stay in its folder; and the switch is on that would open torch's door."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "mmengine"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.fixture(scope="module")
def at(digits, tmp_path_factory):
    """What the entries work with: a trained detector, its config, its run, its data."""
    folder = tmp_path_factory.mktemp("good")
    saving = dict(default_hooks__checkpoint=dict(interval=2, by_epoch=False))
    config = run_config(faster_rcnn(), digits, folder, steps=2, **saving)
    config.test_dataloader, config.test_cfg = config.val_dataloader, dict(type="TestLoop")
    config.test_evaluator = config.val_evaluator
    config.visualizer = dict(type="DetLocalVisualizer", name="visualizer")
    config.dump(str(folder / "config.py"))
    picture = next((digits / "val").iterdir())
    return SimpleNamespace(
        runner=train(config), good=read_checkpoint(folder / "iter_2.pth"),
        config=str(folder / "config.py"), loaded=load_config(str(folder / "config.py")),
        digits=digits, detector=build(faster_rcnn()), picture=picture, out=folder / "out",
    )  # fmt: skip


def load_from(name, at, load=None):
    """What the start of a training does with `load_from`, in one that was built before."""
    at.runner._load_from, at.runner._resume, at.runner._has_loaded = name, False, False
    (load or type(at.runner).load_or_resume)(at.runner)


def distill(name, at):
    """`gdetkd distill --checkpoint`, up to the first step."""
    build(compose(at.config, at.config, at.digits, name).model)


# What loads weights, by what a user calls.
ENTRIES = {
    "export": lambda name, at: export_student(find_checkpoint(name), at.out / "student.pth"),
    "test": lambda name, at: evaluate(at.loaded, find_checkpoint(name)),
    "detect": lambda name, at: detect_pictures(
        at.config, find_checkpoint(name), [at.picture], at.out, 0.5
    ),
    "compare": lambda name, at: detections(at.loaded, find_checkpoint(name)),
    "distill": distill,
    "teacher": lambda name, at: load_detector(faster_rcnn(), name),
    "train load_from": load_from,
    "Runner": lambda name, at: load_from(name, at, Runner.load_or_resume),
    "init_detector": lambda name, at: init_detector(at.loaded, name, device="cpu"),
    "DetInferencer": lambda name, at: DetInferencer(at.loaded, name, device="cpu"),
    "load_checkpoint": lambda name, at: load_checkpoint(at.detector, name),
    "init_cfg": lambda name, at: PretrainedInit(name)(at.detector),
    "init_cfg with a prefix": lambda name, at: PretrainedInit(name, prefix="backbone.")(
        at.detector.backbone
    ),
}
FITS_NO_MODEL = ("other names", "other shapes")  # weights that only a model can refuse


@pytest.fixture(scope="module")
def hostile(served, at):
    """All files, written once, as (name, path, URL); and what would be there if one had run."""
    folder, url = served
    marker = folder / "marker"
    found = []
    for number, (name, write) in enumerate([*damaged(at.good), *explosive(at.good, marker)]):
        write(folder / f"{number}.pth")
        found.append((name, str(folder / f"{number}.pth"), f"{url}/{number}.pth"))
    assert len(found) >= 50
    return found, marker


def expect_a_sentence(call, *args):
    """It stops within 20 s, with an error that the command prints as a sentence."""
    began = time.monotonic()
    with pytest.raises((ValueError, OSError)) as caught:
        call(*args)
    assert time.monotonic() - began < 20
    assert str(caught.value) and "weights_only" not in str(caught.value)
    return str(caught.value)


def memory():
    """The most that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_file_through_every_entry(hostile, downloads, at, entry):
    files, marker = hostile
    before = memory()
    for name, path, url in files:
        if entry == "export" and name in FITS_NO_MODEL:
            continue
        for place in (path, url):
            said = expect_a_sentence(ENTRIES[entry], place, at)
            assert Path(path).name in said or "expected weights of" in said, (name, said)
            assert not marker.exists(), name
    assert memory() - before < 1


@pytest.mark.parametrize("resume", [False, True])
def test_every_file_through_a_training(hostile, downloads, at, tmp_path, resume):
    """Whole trainings: `--resume` with every file; `load_from`, which the test above has, a few."""
    files, marker = hostile
    if resume:
        for number, (name, write) in enumerate(not_resumable(at.good)):
            write(tmp_path / f"{number}.pth")
            files = [*files, (name, str(tmp_path / f"{number}.pth"), None)]
    before = memory()
    for name, *places in files if resume else files[::12]:
        for place in filter(None, places):
            config = run_config(faster_rcnn(), at.digits, tmp_path / "run", steps=4)
            if not resume:
                config.load_from = place
            said = expect_a_sentence(train, config, place if resume else False)
            assert not marker.exists(), (name, said)
    assert memory() - before < 1


def test_good_files_load_by_path_and_url(served, at, tmp_path):
    folder, url = served
    torch.save(at.good, folder / "good.pth")
    for place in (str(folder / "good.pth"), f"{url}/good.pth"):
        for call in ENTRIES.values():
            call(place, at)
        config = run_config(faster_rcnn(), at.digits, tmp_path / "a", steps=3)
        assert train(config, resume=place).iter == 3
        config.load_from = place
        assert train(config).iter == 3


def test_a_plain_process_reads_urls_as_data(served, tmp_path):
    """One that imports MMEngine alone: the environment's startup file has installed the loader."""
    folder, url = served
    marker = tmp_path / "marker"
    torch.save({"state_dict": {"weight": payload("reduce", marker)}}, folder / "plain.pth")
    code = f"""
import sys, torch
from gdetkd import startup  # as gdetkd_startup.pth does
from mmengine.runner import load_checkpoint
for place in ({str(folder / "plain.pth")!r}, {url + "/plain.pth"!r}):
    try:
        load_checkpoint(torch.nn.Linear(1, 1), place)
    except ValueError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    said = [
        line for line in done.stdout.decode().splitlines() if line.startswith("CheckpointError")
    ]
    assert len(said) == 2 and all("system" in line for line in said), done
    assert not marker.exists()


@pytest.mark.parametrize("scheme", sorted(CheckpointLoader._schemes))
def test_every_scheme_of_mmengine_ends_in_our_reading(scheme, served, tmp_path, monkeypatch):
    """A name of each kind leads to a hostile file, or to the sentence that it cannot be found."""
    folder, url = served
    marker, path = tmp_path / "marker", folder / "scheme.pth"
    torch.save({"extra": payload("reduce", marker)}, path)
    hostile = {"resnet50": f"{url}/scheme.pth", "local": str(path)}
    for table in ("get_torchvision_models", "get_external_models", "get_mmcls_models"):
        monkeypatch.setattr(mmengine_checkpoint, table, lambda: hostile)
    prefix = scheme.replace(r"(\S+\:)?", "")
    names = {"": str(path), "http://": f"{url}/scheme.pth", "https://": "https://127.0.0.1:9/a.pth"}
    load = functools.partial(expect_a_sentence, load_checkpoint, torch.nn.Linear(1, 1))
    said = load(names.get(prefix, f"{prefix}resnet50"))
    if prefix not in ("https://", "s3://", "petrel://", "pavi://"):  # need a server or a library
        assert "system" in said
    if "mmlab" in prefix:  # their table may name a file
        assert "system" in load(f"{prefix}local")
    assert not marker.exists()


def test_a_name_that_carries_a_hash_is_checked(served):
    folder, url = served
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name in (f"net-{digest}.pth", "net-00000000.pth", "net-20200130.pth", "net.pth"):
        (folder / name).write_bytes(content)
    first = fetch(f"{url}/net-{digest}.pth")
    assert first == Path(torch.hub.get_dir()) / "checkpoints" / f"net-{digest}.pth"
    first.write_bytes(b"damaged")
    assert fetch(f"{url}/net-{digest}.pth").read_bytes() == content  # downloaded again
    (folder / f"net-{digest}.pth").unlink()
    assert fetch(f"{url}/net-{digest}.pth").read_bytes() == content  # kept
    with pytest.raises(FileNotFoundError, match=rf"SHA-256 00000000.*got {digest}"):
        fetch(f"{url}/net-00000000.pth")
    assert not list(first.parent.glob("*00000000*")) and not list(first.parent.glob(".*"))
    for name in ("net-20200130.pth", "net.pth"):  # a date; none
        assert fetch(f"{url}/{name}").parent.parent == first.parent / "gdetkd"


def test_a_download_that_breaks_off_leaves_nothing(tmp_path):
    class Short(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(bytes(10))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(FileNotFoundError, match="after 10 of 1000 bytes.*put the file at"):
            fetch(f"http://127.0.0.1:{server.server_port}/a.pth")
        server.shutdown()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "command", ["export {} out.pth", "test {config} {}", "train {config} --resume {}"]
)
def test_one_sentence_from_the_command(at, tmp_path, monkeypatch, capsys, command):
    """What reaches the command as ValueError or OSError is printed."""
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(b"PK cut off")
    words = command.format("a.pth", config=at.config).split()
    monkeypatch.setattr(sys, "argv", ["gdetkd", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and "gdetkd: " in said and "damaged" in said, said
    assert "Traceback" not in said
