"""Hostile and damaged files through every entry, by path and by URL: nothing runs, one sentence.

The URLs are served on the loopback address; nothing leaves the machine.
"""

import functools
import hashlib
import http.server
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from helpers import build, faster_rcnn, run_config
from hostile_checkpoints import damaged, explosive, not_resumable, payload
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import CheckpointLoader, load_checkpoint

from gdetkd.checkpoints.hub import fetch, find_checkpoint
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.checkpoints.student import export_student
from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.evaluation.testing import test as evaluate
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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Downloads of a test stay in its folder; and the switch is on that would open torch's door."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "mmengine"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.fixture(scope="module")
def good(digits, tmp_path_factory):
    """A whole checkpoint of a training of two steps."""
    folder = tmp_path_factory.mktemp("good")
    saving = dict(default_hooks__checkpoint=dict(interval=2, by_epoch=False))
    train(run_config(faster_rcnn(), digits, folder, steps=2, **saving))
    return read_checkpoint(folder / "iter_2.pth")


@pytest.fixture(scope="module")
def detector():
    return build(faster_rcnn())


def config_of(detector_config):
    return Config(
        dict(
            default_scope="mmdet",
            model=detector_config,
            test_dataloader=dict(dataset=dict(type="CocoDataset")),
        )
    )


# What loads weights, by what a user calls.
ENTRIES = {
    "export": lambda name, detector, folder: export_student(find_checkpoint(name), folder / "out"),
    "teacher": lambda name, detector, folder: load_detector(faster_rcnn(), name),
    "init_detector": lambda name, detector, folder: init_detector(
        config_of(faster_rcnn()), name, device="cpu"
    ),
    "load_checkpoint": lambda name, detector, folder: load_checkpoint(detector, name),
    "init_cfg": lambda name, detector, folder: PretrainedInit(name)(detector),
    "init_cfg with a prefix": lambda name, detector, folder: PretrainedInit(
        name, prefix="backbone."
    )(detector.backbone),
}


def files(good, marker):
    yield from damaged(good)
    yield from explosive(good, marker)


def expect_a_sentence(call, *args):
    """It stops within 20 s, with an error that the command prints as a sentence."""
    began = time.monotonic()
    with pytest.raises((ValueError, OSError)) as caught:
        call(*args)
    assert time.monotonic() - began < 20
    assert str(caught.value) and "weights_only" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_file_through_every_entry(served, good, detector, tmp_path, entry):
    folder, url = served
    marker, path = tmp_path / "marker", folder / "weights.pth"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0
    for number, (name, write) in enumerate(files(good, marker)):
        if entry == "export" and name in ("other names", "other shapes"):
            continue  # weights of another model
        path = folder / f"{number}.pth"
        write(path)
        for place in (str(path), f"{url}/{path.name}"):
            said = expect_a_sentence(ENTRIES[entry], place, detector, tmp_path)
            assert path.name in said or "expected weights of" in said, (name, said)
            assert not marker.exists(), name
        path.unlink()
        count += 1
    assert count >= 40
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20  # KiB: a GiB


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_every_file_through_a_training(served, good, digits, tmp_path, resume):
    folder, url = served
    marker = tmp_path / "marker"
    cases = list(files(good, marker)) + (list(not_resumable(good)) if resume else [])
    for number, (name, write) in enumerate(cases):
        path = folder / f"{number}.pth"
        write(path)
        # What a URL adds is the download, which the test above sees with every file.
        for place in (str(path), f"{url}/{path.name}")[: 2 if number % 5 == 0 else 1]:
            config = run_config(faster_rcnn(), digits, tmp_path / "run", steps=4)
            if not resume:
                config.load_from = place
            said = expect_a_sentence(train, config, place if resume else False)
            assert not marker.exists(), (name, said)
        path.unlink()


def test_good_files_load_by_path_and_url(served, good, detector, digits, tmp_path):
    folder, url = served
    torch.save(good, folder / "good.pth")
    for place in (str(folder / "good.pth"), f"{url}/good.pth"):
        for call in ENTRIES.values():
            call(place, detector, tmp_path)
        config = run_config(faster_rcnn(), digits, tmp_path / "a", steps=3)
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


def test_one_sentence_from_the_command(good, tmp_path):
    """The command itself, once: what reaches it as ValueError or OSError is printed."""
    (tmp_path / "a.pth").write_bytes(b"PK cut off")
    command = [sys.executable, "-m", "gdetkd.cli", "export", str(tmp_path / "a.pth"), "out.pth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 1 and done.stderr.startswith("gdetkd: ") and "damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluation_refuses_them_too(good, digits, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    config = run_config(faster_rcnn(), digits, tmp_path, steps=1)
    config.test_dataloader, config.test_cfg = config.val_dataloader, dict(type="TestLoop")
    config.test_evaluator = config.val_evaluator
    with pytest.raises(CheckpointError, match="the file is empty"):
        evaluate(config, str(tmp_path / "a.pth"))
