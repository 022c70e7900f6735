"""Training on several processes and from a cell; what goes wrong is said in a sentence."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import ipywidgets
import pandas as pd
import pytest
import torch
from helpers import distilled, faster_rcnn
from kill_and_resume import differences
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import TASK_UTILS
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from processes import (
    Child,
    free_port,
    gdetkd,
    sentence,
    until,
    worker_of_rank,
    write_config,
)

from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.launch import launch, processes
from gdetkd.launch.background import Run
from gdetkd.launch.learning_rate import scale_learning_rate
from gdetkd.launch.nodes import LaunchError, first_host, resolve_nodes
from gdetkd.launch.panel import live_panel
from gdetkd.launch.worker import run_worker
from gdetkd.training.config import load_config

# Interpreters are started, up to nine of them, perhaps beside a training.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("plain") / "plain.py", faster_rcnn(), digits)


# --- Who is who -----------------------------------------------------------------------------------


def test_machines_are_those_asked_for_or_those_of_srun(monkeypatch):
    assert resolve_nodes(8, 1, 0, None, None) is None
    two = resolve_nodes(8, 2, 1, "first", None)
    assert (two.count, two.rank, two.address, two.port) == (2, 1, "first", 29500)
    with pytest.raises(LaunchError, match="--master-addr"):
        resolve_nodes(8, 2, 1, None, None)
    with pytest.raises(LaunchError, match="--node-rank from 0 to 1"):
        resolve_nodes(8, 2, 2, "first", None)
    step = dict(NODELIST="gpu[03-04]", NUM_NODES="2", NUM_TASKS="2")
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    monkeypatch.setenv("SLURM_NODEID", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "12345")
    by_srun = resolve_nodes(8, 1, 0, None, None)
    assert (by_srun.count, by_srun.rank, by_srun.address, by_srun.port) == (2, 1, "gpu03", 22345)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    with pytest.raises(LaunchError, match="one task per node, got 16 tasks on 2 nodes"):
        resolve_nodes(8, 1, 0, None, None)


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("a", "a"),
        ("node1,node2", "node1"),
        ("gpu[03-05,7],login", "gpu03"),
        ("rack[2-3]-gpu,x", "rack2-gpu"),
        ("a-b-[17]", "a-b-17"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


def test_more_gpus_than_there_are(monkeypatch):
    with pytest.raises(LaunchError, match="at least 1, got 0"):
        processes.check_devices(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # of this machine we cannot know
    with pytest.raises(LaunchError, match="at most 2, the GPUs found here, got 8"):
        processes.check_devices(8)


def test_the_learning_rate_follows_the_images_a_step():
    config = load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    messages = []
    scale_learning_rate(config, 8, messages.append)
    assert messages == [] and config.auto_scale_lr.enable
    scale_learning_rate(config, 4, messages.append)
    assert messages == ["Learning rate 0.02 is for 16 images per step; with 8 (4 x 2) it is 0.01."]
    config.pop("auto_scale_lr")
    scale_learning_rate(config, 4, messages.append)
    assert len(messages) == 1 and "auto_scale_lr" not in config


# --- One process and several of the same total batch ----------------------------------------------


@TASK_UTILS.register_module()
class FirstSampler(RandomSampler):
    """Takes the first boxes: a random choice is another one on every process."""

    def random_choice(self, gallery, num):
        return gallery[:num]


@HOOKS.register_module()
class LossesOfAProcess(Hook):
    """Writes this process's losses, one line per step."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        losses = {name: float(value) for name, value in outputs.items() if "loss" in name}
        losses["grad_norm"] = runner.message_hub.get_scalar("train/grad_norm").current()
        rank = os.environ.get("RANK", "0")
        with open(Path(runner.work_dir) / f"losses_{rank}.jsonl", "a") as file:
            file.write(json.dumps(losses) + "\n")


def train_on(world, config, folder, batch):
    """Train on `world` processes that torchrun would have started."""
    port = free_port()

    def process(rank):
        def run():
            torch.set_num_threads(1)
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            options = {"train_dataloader.batch_size": batch}
            run_worker(
                dict(
                    config=str(config),
                    options=options,
                    work_dir=str(folder),
                    seed=None,
                    amp=False,
                    resume=False,
                )  # fmt: skip
            )

        return run

    folder.mkdir()
    children = [Child(process(rank), folder / f"{rank}.txt") for rank in range(world)]
    for child in children:
        code, output = child.wait()
        assert code == 0, output[-3000:]


def losses_on(world, config, folder):
    """The losses of a training on `world` processes, averaged over them."""
    train_on(world, config, folder, batch=4 // world)
    files = [folder / f"losses_{rank}.jsonl" for rank in range(world)]
    frames = [pd.read_json(file, lines=True) for file in files]
    return sum(frames) / world


@pytest.mark.slow
def test_several_processes_train_as_one_of_the_same_total_batch(digits, teacher, tmp_path):
    """The same images a step, the same losses on average, the same gradients: but for rounding."""
    components = dict(
        contrastive=dict(weight=0.5, dim=8, queue_capacity=80),
        imitation=dict(weight=1.0, sampling_ratio=2),
        classification=dict(weight=1.0),
        regression=dict(weight=1.0),
    )
    student = faster_rcnn(
        backbone__norm_eval=True,  # else every process normalizes by its own images
        train_cfg__rpn__sampler__type="FirstSampler",
        train_cfg__rcnn__sampler__type="FirstSampler",
    )
    config = write_config(
        tmp_path / "config.py", distilled(student, teacher, components), digits, steps=12,
        optim_wrapper__clip_grad=dict(max_norm=1000.0),
        custom_hooks=[
            dict(type="SafeCheckpointHook"),
            dict(type="DistillationHook"),
            dict(type="LossesOfAProcess"),
        ],
    )  # fmt: skip
    one = losses_on(1, config, tmp_path / "one")
    assert len(one) == 12 and {"loss_cls", "kd_contrastive_loss", "grad_norm"} < set(one)
    for world in (2, 4):
        several = losses_on(world, config, tmp_path / str(world))
        # Step by step the sums are taken in another order: rounding, and what grows from it.
        for name in one:
            assert several[name][0] == pytest.approx(one[name][0], rel=1e-4, abs=1e-6), name
            assert several[name].to_numpy() == pytest.approx(one[name].to_numpy(), rel=2e-2), name


def test_srun_may_be_the_launcher(plain, tmp_path):
    port = str(free_port())

    def task(rank):
        return lambda: os.environ.update(
            SLURM_STEP_NODELIST="localhost", SLURM_STEP_NUM_NODES="1", SLURM_STEP_NUM_TASKS="2",
            SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), MASTER_PORT=port,
        )  # fmt: skip

    tasks = [
        gdetkd(tmp_path, "train", plain, "--work-dir", "work", prepare=task(rank))
        for rank in range(2)
    ]
    for child in tasks:
        code, output = child.wait()
        assert code == 0, output
    progress = read_checkpoint(tmp_path / "work" / "iter_4.pth")["meta"]["progress"]
    assert progress["processes"] == 2 and len(progress["generators"]) == 2


# --- What goes wrong ------------------------------------------------------------------------------


def test_a_full_disk_ends_it_with_a_sentence_and_whole_checkpoints(plain, tmp_path):
    work_dir = tmp_path / "work"
    code, output = gdetkd(tmp_path, "train", plain, "--work-dir", work_dir).wait()
    assert code == 0, output
    before = (work_dir / "iter_4.pth").read_bytes()

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)

    longer = ["--cfg-options", "train_cfg.max_iters=6", "--resume"]
    code, output = gdetkd(
        tmp_path, "train", plain, "--work-dir", work_dir, *longer, prepare=fill
    ).wait()
    assert code == 1
    assert re.search(r"cannot write .*iter_6.pth: .*are intact.*--resume", sentence(output))
    assert (work_dir / "iter_4.pth").read_bytes() == before
    assert [path.name for path in work_dir.glob("*.pth")] == ["iter_4.pth"]
    assert not list(work_dir.glob(".*.tmp"))
    code, output = gdetkd(tmp_path, "train", plain, "--work-dir", work_dir, *longer).wait()
    assert code == 0 and [path.name for path in work_dir.glob("*.pth")] == ["iter_6.pth"]


def test_a_work_dir_that_cannot_be_written(plain, tmp_path):
    # /sys refuses new folders to everyone, root included, who may write to read-only ones else.
    code, output = gdetkd(tmp_path, "train", plain, "--work-dir", "/sys/gdetkd").wait()
    assert code == 1 and "cannot write to /sys/gdetkd: " in sentence(output)
    assert "choose another --work-dir" in sentence(output)


def test_missing_weights_of_the_teacher(digits, tmp_path):
    model = distilled(faster_rcnn(), dict(config=faster_rcnn(), checkpoint="nowhere.pth"))
    config = write_config(tmp_path / "config.py", model, digits)
    code, output = gdetkd(tmp_path, "train", config).wait()
    assert code == 1 and "there is no 'nowhere.pth'" in sentence(output)
    assert not list((tmp_path / "work").glob("*.pth"))


def test_a_wrong_number_of_classes(digits, tmp_path):
    config = write_config(tmp_path / "config.py", faster_rcnn(classes=7), digits)
    code, output = gdetkd(tmp_path, "train", config).wait()
    message = sentence(output)
    assert code == 1
    assert "train data: 10 classes" in message and "bbox_head has num_classes=7" in message


def test_a_port_in_use(plain, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        nodes = ["--nodes", 2, "--master-addr", "127.0.0.1", "--master-port", port]
        code, output = gdetkd(tmp_path, "train", plain, "--gpus", 1, *nodes).wait()
    assert code == 1 and f"port {port} of this machine cannot be used" in sentence(output)
    assert "another --master-port" in sentence(output)


def test_a_first_node_that_cannot_be_reached(plain, tmp_path):
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port(), "--wait", 1]
    nodes = ["--gpus", 1, "--nodes", 2, "--node-rank", 1]
    code, output = gdetkd(tmp_path, "train", plain, *nodes, *address).wait()
    assert code == 1
    assert "node 1 could not reach the first node at 127.0.0.1:" in sentence(output)


def test_a_second_node_that_never_comes(plain, tmp_path):
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port(), "--wait", 2]
    code, output = gdetkd(tmp_path, "train", plain, "--gpus", 1, "--nodes", 2, *address).wait()
    assert code == 1 and "the processes did not meet at 127.0.0.1:" in sentence(output)


# --- torchrun -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_is_started_again_with_the_others(digits, teacher, tmp_path):
    """The end is that of two processes that no agent started and nobody killed, bit for bit."""
    model = distilled(faster_rcnn(), teacher)
    config = write_config(tmp_path / "config.py", model, digits, steps=16, interval=4)
    train_on(2, config, tmp_path / "calm", batch=2)
    harried = gdetkd(tmp_path, "train", config, "--gpus", 2, "--work-dir", "harried")
    until = time.monotonic() + 900
    while not (tmp_path / "harried" / "iter_4.pth").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(worker_of_rank(1, "harried"), signal.SIGKILL)
    code, output = harried.wait()
    assert code == 0, output
    assert re.search(r"Started again; goes on from .*harried/iter_\d+.pth", output)
    one, other = (read_checkpoint(tmp_path / run / "iter_16.pth") for run in ("calm", "harried"))
    assert one["meta"]["progress"]["processes"] == 2
    assert differences(one, other) == []


@pytest.mark.slow
def test_threads_are_those_of_the_environment(digits, tmp_path):
    """OMP_NUM_THREADS counts in a single process and in every worker, and nothing caps it."""
    (tmp_path / "count_threads.py").write_text(
        "import os, torch\n"
        "from pathlib import Path\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class CountThreads(Hook):\n"
        "    def before_train_iter(self, runner, batch_idx, data_batch=None):\n"
        "        rank = os.environ.get('RANK', '0')\n"
        "        file = Path(runner.work_dir) / f'threads_{rank}'\n"
        "        file.write_text(f\"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}\")\n"
    )
    config = write_config(
        tmp_path / "config.py", faster_rcnn(), digits, steps=1, interval=1,
        custom_imports=dict(imports=["count_threads"]),
        custom_hooks=[dict(type="SafeCheckpointHook"), dict(type="CountThreads")],
    )  # fmt: skip
    package = Path(launch.__code__.co_filename).parents[2]
    variables = dict(OMP_NUM_THREADS="3", PYTHONPATH=os.pathsep.join([str(package), str(tmp_path)]))
    environment = {**os.environ, **variables}
    plain = "import os, torch; print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())"
    expected = subprocess.run(  # torch itself takes no more threads than there are cores
        [sys.executable, "-c", plain], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert expected.startswith("3 ")
    command = [sys.executable, "-m", "gdetkd.cli", "train", str(config), "--work-dir"]
    subprocess.run([*command, str(tmp_path / "1")], env=environment, check=True)

    def prepare():
        os.environ.update(variables)
        sys.path.append(str(tmp_path))

    agent = gdetkd(
        tmp_path, "train", config, "--gpus", 2, "--work-dir", tmp_path / "2", prepare=prepare
    )
    code, output = agent.wait()
    assert code == 0, output
    for count in (1, 2):
        counts = [path.read_text() for path in (tmp_path / str(count)).glob("threads_*")]
        assert counts == [expected] * count


# --- From a cell ----------------------------------------------------------------------------------


def until_step(run, step, seconds=500):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = run.scalars()
        if len(frame) and frame.index[-1] >= step:
            return
        assert run.status() == "running", run.log()
        time.sleep(0.05)
    raise TimeoutError(run.log())


@pytest.mark.slow
def test_a_launched_run_outlives_its_kernel_and_is_found_again(digits, tmp_path):
    config = write_config(
        tmp_path / "config.py", faster_rcnn(), digits, steps=400, interval=5, log_level="INFO"
    )
    work_dir = tmp_path / "work dir"
    code = (
        "from gdetkd.launch import launch\n"
        f"launch({str(config)!r}, work_dir={str(work_dir)!r}, "
        "options={'train_cfg.max_iters': 300, 'train_cfg.val_interval': 300})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # a kernel that is gone
    run = launch.attach(work_dir)
    assert run.status() == "running"
    until_step(run, 6)
    assert launch(str(config), work_dir=work_dir).status() == "running"  # found, not started twice
    assert run.eta().total_seconds() > 0
    assert "Iter(train)" in run.log()
    run.stop()
    assert run.status() == "stopped"
    last = run.scalars().index[-1]
    assert 6 <= last < 300
    again = launch.attach(work_dir)
    title, buttons, picture, log = live_panel(again, ipywidgets, every=0.2).children
    stop, resume = buttons.children
    assert "stopped" in title.value and (stop.disabled, resume.disabled) == (True, False)
    still = bytes(picture.value)
    assert still.startswith(b"\x89PNG") and "Iter(train)" in log.value
    resume.click()
    assert run.status() == "running"
    until_step(again, last + 3)
    until(lambda: not stop.disabled and "running" in title.value and bytes(picture.value) != still)
    stop.click()
    until(lambda: "stopped" in title.value and not resume.disabled)
    assert again.status() == "stopped"
    frame = again.scalars()
    assert frame.index.is_unique and list(frame.index[:6]) == [1, 2, 3, 4, 5, 6]
    assert "Load checkpoint" in (work_dir / "launch.log").read_text()
    os.remove(work_dir / "launch.json")
    with pytest.raises(FileNotFoundError, match="no launch.json"):
        launch.attach(work_dir)


def test_a_run_whose_process_was_never_seen_is_not_taken_for_one_that_runs(tmp_path):
    """It ended before its beginning could be read, or there is no /proc to read it from."""
    known = dict(command=[], folder=str(tmp_path), pid=2**30, began=None)
    (tmp_path / "launch.json").write_text(json.dumps(known))
    assert launch.attach(tmp_path).status() == "failed"
    (tmp_path / "launch.exit").write_text("0\n")
    assert launch.attach(tmp_path).status() == "finished"


@pytest.mark.slow
def test_a_launched_run_of_two_processes_ends_and_one_that_fails_says_so(
    plain, digits, tmp_path, capsys
):
    """What would fail again, a file that is missing, is said once and not tried again."""
    run = launch(str(plain), work_dir=tmp_path / "run", processes=2)
    end = time.monotonic() + 900
    while run.status() == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert run.status() == "finished", run.log()
    assert run.eta().total_seconds() == 0
    frame = run.scalars()
    assert list(frame.index) == [1, 2, 3, 4] and frame["loss"].notna().all()
    assert frame["coco/bbox_mAP"].dropna().index.tolist() == [4]
    figure = run.show()
    assert "run: finished, step 4" in capsys.readouterr().out
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "AP"]
    model = distilled(faster_rcnn(), dict(config=faster_rcnn(), checkpoint="nowhere.pth"))
    config = write_config(tmp_path / "failing.py", model, digits)
    run = launch(str(config), work_dir=tmp_path / "failing", processes=2)
    while run.status() == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert run.status() == "failed" and "there is no 'nowhere.pth'" in sentence(run.log(100))


def test_what_cannot_be_launched_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.py"):
        launch("nowhere.py", work_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_on_voc_shows_its_average_precision(tmp_path):
    """The figure of the live view, from the scalars that VOC's evaluators log."""
    log = tmp_path / "time" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    lines = [dict(loss=1.0, step=1), {"voc07_11points/AP50": 0.4, "voc07_11points/mAP": 0.4,
             "voc07_area/mAP": 0.5, "step": 1}]  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)))
    loss, precision = Run(tmp_path).figure().axes
    assert precision.get_ylabel() == "mAP"
    assert precision.lines[0].get_xydata().tolist() == [[1, 0.4]]


def test_the_log_is_read_from_its_end(tmp_path):
    with open(tmp_path / "launch.log", "wb") as file:
        file.truncate(3 << 30)  # three gigabytes, of which none is on the disk
        file.seek(0, os.SEEK_END)
        file.write("\nlast but one\nepoch\rlast \xe4".encode())
    start = time.process_time()
    assert Run(tmp_path).log(3) == "last but one\nepoch\nlast \xe4"
    assert time.process_time() - start < 1


def test_on_record_several_processes_end_as_good_as_one():
    """Their AP, against what seeds alone make of it on one process."""
    results = Path(__file__).resolve().parents[1] / "results"
    rows = pd.read_json(results / "training" / "processes.jsonl", lines=True)
    whole = rows[rows["steps"] == 800]
    assert {2, 4} <= set(whole["processes"])
    runs = pd.read_json(results / "digits" / "runs.jsonl", lines=True)
    one = runs[runs["experiment"] == "gdetkd"].groupby("seed")["AP"].last()
    difference = whole["AP"] - one.loc[whole["seed"]].to_numpy()
    assert difference.abs().max() <= 2 * 2**0.5 * one.std()
