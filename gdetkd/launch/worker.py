"""One process of several that train: `python -m gdetkd.launch.worker REQUEST`, by torchrun's agent.

MMEngine's own launcher needs a GPU. Here the process group is made first, with gloo on a machine
without one, and MMEngine's Runner finds it.
"""

from __future__ import annotations

import ast
import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Libraries are imported in `run_worker`: a process that need not try again ends at once.
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def run_worker(request: dict[str, Any]) -> None:
    """Join the process group and train.

    Args:
        request: `config`, `options`, `work_dir`, `seed`, `amp` as for `load_config`; `resume` as
            for `train`; `run`, the number of the run that this launch starts or continues;
            `one_machine` and `folder` as for `init_process_group`.
    """
    import torch
    import torch.distributed as dist
    from mmengine.dist import broadcast_object_list

    from gdetkd.launch.learning_rate import scale_learning_rate
    from gdetkd.training.config import load_config
    from gdetkd.training.last_checkpoint import last_checkpoint
    from gdetkd.training.runner import train

    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # MMEngine's use
    rank, on_gpu = int(os.environ["RANK"]), torch.cuda.is_available()
    if rank:
        sys.stdout = open(os.devnull, "w")  # the first process prints for all
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    folder = request["folder"] if request.get("one_machine") else None
    init_process_group("nccl" if on_gpu else "gloo", folder)
    config = load_config(
        request["config"], request["options"], work_dir=request["work_dir"],
        seed=request["seed"], amp=request["amp"],
    )  # fmt: skip
    config.launcher = "pytorch"
    if not on_gpu:
        wrapper = dict(config.get("model_wrapper_cfg") or {}, device_ids=None)
        wrapper.setdefault("broadcast_buffers", False)
        wrapper.setdefault("find_unused_parameters", config.get("find_unused_parameters", False))
        config.model_wrapper_cfg = wrapper
    for metric in _metrics(config):  # by messages, not by files in the current folder
        metric.setdefault("collect_device", "gpu")
    scale_learning_rate(config, dist.get_world_size(), lambda text: print(text, flush=True))
    # A checkpoint of this run is there: a process has died and all were started again.
    found = [None]
    run = request.get("run")
    if rank == 0 and run is not None:
        found[0], damaged = last_checkpoint(config.work_dir, run)
        for sentence in damaged:
            print(f"Passed over a damaged checkpoint: {sentence}", flush=True)
        if found[0]:
            # By the round of the rendezvous: a node that joins others' restart counts none itself.
            again = not os.environ.get("TORCHELASTIC_RUN_ID", ".1").endswith(".1")
            print(f"{'Started again; goes' if again else 'Goes'} on from {found[0]}.", flush=True)
    broadcast_object_list(found)
    train(config, resume=found[0] or request["resume"], run=run)
    dist.destroy_process_group()


def init_process_group(backend: str, folder: str | None = None) -> None:
    """Join the process group that the environment variables of torchrun or srun describe.

    Workers that are started again must not find the addresses of those that have died and wait for
    them: each round of torchrun's rendezvous has its own file, or its own prefix in the store.

    Args:
        backend: 'gloo' or 'nccl'.
        folder: Where processes of one machine meet, in a file; by default they meet in the store at
            MASTER_ADDR.
    """
    import torch.distributed as dist

    from gdetkd.launch.rendezvous import environment_store

    attempt = os.environ.get("TORCHELASTIC_RUN_ID", "run")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if folder is None:
        store = dist.PrefixStore(attempt, environment_store())
    else:
        store = dist.FileStore(os.path.join(folder, f"workers_{attempt}"), size)
    store.set_timeout(dist.constants.default_pg_timeout)  # a store's own is shorter
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends, however that ends.

    Otherwise the workers of an agent that was killed would go on training and writing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _metrics(config: Any) -> Iterator[dict]:
    for key in ("val_evaluator", "test_evaluator"):
        metrics = config.get(key) or []
        yield from metrics if isinstance(metrics, list) else [metrics]


def main() -> None:
    """Train as the first argument says; leave an error message where that is impossible."""
    request = ast.literal_eval(sys.argv[1])
    end_with_parent(request["agent"])
    folder = Path(request["folder"])
    if any(folder.glob("*.txt")):  # a process failed in a way that would come again
        sys.exit(1)
    try:
        run_worker(request)
    except ConnectionError:  # another process died: worth another try
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        _leave(folder, str(error))


def _leave(folder: Path, message: str) -> None:
    (folder / f"{int(os.environ['RANK']):05}.txt").write_text(message)
    sys.stdout.flush()
    os._exit(1)  # without waiting for the other processes, which the launcher ends


if __name__ == "__main__":
    main()
