"""One process of a training on several: `python -m gdetkd.launch.worker REQUEST`, by torchrun.

MMEngine's own launcher asks for a GPU. Here the process group is made first, with gloo on a machine
without one, and MMEngine's Runner finds it.
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The libraries are imported in `work`: a process that need not try again ends at once.


def work(request: dict[str, Any]) -> None:
    """Join the process group and train.

    Args:
        request: `config`, `options`, `work_dir`, `seed`, `amp` as for `load_config`; `resume` as
            for `train`; `run`, the number of the run that this launch starts or continues.
    """
    import torch
    import torch.distributed as dist
    from mmengine.dist import broadcast_object_list

    from gdetkd.launch.processes import say_scaled_rate
    from gdetkd.training.config import load_config
    from gdetkd.training.last_checkpoint import last_checkpoint
    from gdetkd.training.runner import train

    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # MMEngine's use
    rank, gpus = int(os.environ["RANK"]), torch.cuda.is_available()
    if rank:
        sys.stdout = open(os.devnull, "w")  # what every process prints is said by the first
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    meet("nccl" if gpus else "gloo")
    config = load_config(
        request["config"], request["options"], work_dir=request["work_dir"],
        seed=request["seed"], amp=request["amp"],
    )  # fmt: skip
    config.launcher = "pytorch"
    if not gpus:
        wrapper = dict(config.get("model_wrapper_cfg") or {}, device_ids=None)
        wrapper.setdefault("broadcast_buffers", False)
        wrapper.setdefault("find_unused_parameters", config.get("find_unused_parameters", False))
        config.model_wrapper_cfg = wrapper
    for metric in _metrics(config):  # by messages, not by files in the current folder
        metric.setdefault("collect_device", "gpu")
    say_scaled_rate(config, dist.get_world_size(), lambda text: print(text, flush=True))
    # A checkpoint of this run is there: a process has died and all were started again.
    found = [None]
    run = request.get("run")
    if rank == 0 and run is not None:
        found[0], damaged = last_checkpoint(config.work_dir, run)
        for sentence in damaged:
            print(f"Passed over a damaged checkpoint: {sentence}", flush=True)
        if found[0]:
            again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
            print(f"{'Started again; goes' if again else 'Goes'} on from {found[0]}.", flush=True)
    broadcast_object_list(found)
    train(config, resume=found[0] or request["resume"], run=run)
    dist.destroy_process_group()


def meet(backend: str) -> None:
    """Join the process group that torchrun or srun has told of.

    torchrun's agent keeps one store for all its attempts: without a prefix, processes that were
    started again could find the addresses of those that have died, and wait for them.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt_{attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _metrics(config: Any) -> Iterator[dict]:
    for key in ("val_evaluator", "test_evaluator"):
        metrics = config.get(key) or []
        yield from metrics if isinstance(metrics, list) else [metrics]


def main() -> None:
    """Do what the first argument says; leave a sentence where it cannot be done."""
    request = ast.literal_eval(sys.argv[1])
    folder = Path(request["failures"])
    if any(folder.glob("*.txt")):  # has failed in a way that would come again
        sys.exit(1)
    try:
        work(request)
    except ConnectionError:  # another process died: worth another try
        raise
    except KeyError as error:
        if "registry" not in str(error):
            raise
        _leave(folder, str(error.args[0]))
    except (ValueError, OSError, FloatingPointError) as error:
        _leave(folder, str(error))


def _leave(folder: Path, sentence: str) -> None:
    (folder / f"{int(os.environ['RANK']):05}.txt").write_text(sentence)
    sys.stdout.flush()
    os._exit(1)  # without waiting for the other processes, which the launcher ends


if __name__ == "__main__":
    main()
