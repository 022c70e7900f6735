"""A work dir belongs to one run, whatever happens to its processes and files."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
from helpers import faster_rcnn
from processes import Child, gdetkd, sentence, until, worker_of_rank, write_config

from gdetkd.launch import launch
from gdetkd.launch.background import Run
from gdetkd.launch.nodes import LaunchError
from gdetkd.launch.run_lock import LOCK, claim, owners, process_start

pytestmark = pytest.mark.timeout(1800)


def hold(folder):
    """A process that owns the work dir until it is ended."""

    def run():
        with claim(folder):
            time.sleep(600)

    child = Child(run, folder.parent / f"holder_{time.monotonic_ns()}.txt")
    until(lambda: child.pid in owners(folder))
    return child


def kill(child):
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_a_second_run_is_refused_until_the_first_one_ends(tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    child = hold(work_dir)
    with pytest.raises(LaunchError, match=f"process {child.pid} on .*kill {child.pid}"):
        with claim(work_dir):
            pass
    owner = json.loads((work_dir / LOCK).read_text())
    assert owner["pid"] == child.pid and owner["began"] == process_start(child.pid)
    kill(child)  # what it wrote stays, what it held does not
    assert (work_dir / LOCK).read_text()
    with claim(work_dir):
        assert owners(work_dir) == [os.getpid()]
    assert owners(work_dir) == [] and (work_dir / LOCK).read_text() == ""


def test_a_number_given_to_another_process_is_not_taken_for_the_owner(tmp_path):
    owner = dict(host="here", pid=os.getpid(), began=-1, time="then")
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with claim(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["began"] == process_start(os.getpid())


def test_a_damaged_lock_file_does_not_block(tmp_path):
    (tmp_path / LOCK).write_text("{")
    with claim(tmp_path):
        pass


def test_a_removed_work_dir_still_belongs_to_its_run(tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    child = hold(work_dir)
    shutil.rmtree(work_dir)
    assert owners(work_dir) == [child.pid]
    work_dir.mkdir()
    with pytest.raises(LaunchError, match=f"was removed or replaced while process {child.pid}"):
        with claim(work_dir):
            pass
    kill(child)
    with claim(work_dir):
        pass


def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path):
    """As a data loader's worker would for some seconds after its trainer was killed."""
    with claim(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        assert owners(tmp_path) == [os.getpid()]
    with claim(tmp_path):
        pass
    worker.kill()
    worker.join()


@pytest.fixture(scope="module")
def long(digits, tmp_path_factory):
    """The config of a training that nobody waits for."""
    folder = tmp_path_factory.mktemp("long")
    return write_config(folder / "long.py", faster_rcnn(), digits, steps=5000, interval=5)


def test_the_command_refuses_a_work_dir_in_use(long, tmp_path):
    (tmp_path / "work").mkdir()
    child = hold(tmp_path / "work")
    code, output = gdetkd(tmp_path, "train", long, "--work-dir", "work").wait()
    assert code == 1 and f"process {child.pid} on" in sentence(output)
    assert "choose another --work-dir" in sentence(output)
    kill(child)
    assert [path.name for path in (tmp_path / "work").iterdir()] == [LOCK]


@pytest.mark.slow
def test_workers_end_when_their_agent_is_killed(long, tmp_path):
    run = gdetkd(tmp_path, "train", long, "--gpus", 2, "--work-dir", "orphans")
    until(lambda: run.ended() or (tmp_path / "orphans" / "iter_5.pth").exists())
    assert None not in (workers := [worker_of_rank(rank, "orphans") for rank in range(2)])
    began = [process_start(pid) for pid in workers]
    kill(run)
    until(lambda: all(process_start(pid) != b for pid, b in zip(workers, began, strict=True)), 20)
    # Nobody owns the work dir now: a run may go on there.
    with claim(tmp_path / "orphans"):
        pass


@pytest.mark.slow
def test_launch_knows_a_run_whose_wrapper_died_and_whose_folder_was_removed(long, tmp_path):
    work_dir = tmp_path / "work"
    run = launch(str(long), work_dir=work_dir)
    until(lambda: owners(work_dir))
    (trainer,) = owners(work_dir)
    record = json.loads((work_dir / "launch.json").read_text())
    assert trainer != record["pid"]
    os.kill(record["pid"], signal.SIGKILL)  # the shell around it
    until(lambda: process_start(record["pid"]) is None or run._child.poll() is not None)
    assert run.status() == launch.attach(work_dir).status() == "running"
    assert launch(str(long), work_dir=work_dir).status() == "running"
    assert owners(work_dir) == [trainer]  # not started twice
    shutil.rmtree(work_dir)
    again = launch(str(long), work_dir=work_dir)
    assert again.status() == "running" and owners(work_dir) == [trainer]
    again.stop()
    assert process_start(trainer) is None and again.status() != "running"


def test_stop_waits_for_the_process_even_if_its_lock_is_back(tmp_path):
    """As a trainer's is while its memory is still being freed."""
    work_dir = tmp_path / "work"
    work_dir.mkdir()

    def run():
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        with claim(work_dir):
            until(lambda: asked)
        time.sleep(2)

    child = Child(run, tmp_path / "trainer.txt")
    until(lambda: owners(work_dir) == [child.pid])
    Run(work_dir).stop()
    assert process_start(child.pid) is None
    child.wait()


def test_a_damaged_record_is_a_sentence(long, tmp_path):
    (tmp_path / "launch.json").write_text('{"pid": 1')
    for start in (launch.attach, lambda folder: launch(str(long), work_dir=folder)):
        with pytest.raises(ValueError, match="launch.json: expected the record.*remove the file"):
            start(tmp_path)
