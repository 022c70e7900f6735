"""Table 1: the size of the memory, for CKD alone. K counts the gathered batch itself (A)."""

from gdetkd.reproduce.experiments import (
    REENCODED,
    REENCODED_GRADIENT,
    Benchmark,
    component,
    only,
)
from gdetkd.reproduce.registry import Claim, Row, register_table

PAPER = {1: 36.8, 5: 36.9, 10: 37.1, 15: 37.0, 20: 36.9}  # by K in batches of 8 x 1024


def memory(batches: int, **changes):
    """CKD alone with K of some batches, of which the queue holds all but the present one."""

    def options(benchmark: Benchmark):
        capacity = (batches - 1) * benchmark.proposals
        return only("contrastive") | component("contrastive", queue_capacity=capacity, **changes)

    return options


register_table(
    "table1",
    "Table 1: the size of the memory, K in gathered batches",
    (
        Row("baseline", paper=34.0),
        *(
            Row(f"memory_{count}", f"CKD, K of {count} batches", paper, options=memory(count))
            for count, paper in PAPER.items()
        ),
        Row("contrastive"),
        Row("memory_reencoded", "CKD, queue re-encoded", options=only("contrastive") | REENCODED),
        Row("memory_reencoded_gradient", "CKD, queue re-encoded with a gradient",
            options=only("contrastive") | REENCODED_GRADIENT),
        # Larger than anything in the paper; see `explosion` for what to expect.
        Row("memory_60", "CKD, K of 60 batches", options=memory(60), seeds=1, embedded_only=True),
        Row("memory_60_reencoded_gradient",
            "CKD, K of 60 batches, queue re-encoded with a gradient",
            options=memory(60, queue_content="features", queue_gradient=True), seeds=1,
            embedded_only=True),
    ),
    (
        Claim("a memory beats the batch alone", "memory_10", "memory_1"),
        Claim("a memory of twice the size is worse", "memory_10", "memory_20"),
        Claim("a queue that is re-encoded with a gradient beats the paper's queue of keys",
              "memory_reencoded_gradient", "contrastive"),
    ),
    order=1,
)  # fmt: skip
