"""Processes that are started again meet each other, and not those that have died."""

import os
import signal
import time

import torch
import torch.distributed as dist
from processes import Child

from gdetkd.launch.worker import init_process_group


def gather(rank, port, attempt, late):
    """One process of an attempt: meet, gather, leave without a word, as one that dies does."""
    environment = dict(RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    environment |= dict(TORCHELASTIC_USE_AGENT_STORE=True, TORCHELASTIC_RUN_ID=f"run.{attempt}")
    os.environ.update({name: str(value) for name, value in environment.items()})
    signal.alarm(30)  # whoever waits for the dead is ended
    time.sleep(late)
    init_process_group("gloo")
    ranks = [torch.zeros(1) for _ in range(2)]
    dist.all_gather(ranks, torch.tensor([float(rank)]))
    print("met", [int(each) for each in ranks], flush=True)
    os._exit(0)


def test_later_attempts_with_the_agents_store(tmp_path):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in range(5):
        # One comes late: until then the store could only tell of its predecessor. Which of the two
        # calls the other is chance, so several attempts, each process late in turn.
        children = [
            Child(lambda r=rank, a=attempt: gather(r, store.port, a, late=a > 0 and a % 2 == r),
                  tmp_path / f"{attempt}_{rank}")
            for rank in range(2)
        ]  # fmt: skip
        for child in children:
            code, output = child.wait(60)
            assert code == 0 and "met [0, 1]" in output, output
