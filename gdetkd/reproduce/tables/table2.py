"""Table 2: how much a proposal may overlap another and still be its negative, for CKD alone."""

from gdetkd.reproduce.experiments import component, only
from gdetkd.reproduce.registry import Claim, Row, register_table

PAPER = {0.1: 36.8, 0.3: 36.9, 0.5: 37.1, 0.7: 37.0, 0.9: 36.8, 1.0: 36.8}  # by IoU


def threshold(iou: float, **changes):
    return only("contrastive") | component("contrastive", iou=iou, **changes)


register_table(
    "table2",
    "Table 2: proposals that overlap more than this are not negatives",
    (
        Row("baseline", paper=34.0),
        *(
            Row("contrastive", paper=paper)  # the configs' threshold
            if iou == 0.5
            else Row(f"iou_{iou:g}", f"CKD, negatives up to IoU {iou:g}", paper,
                     options=threshold(iou))
            for iou, paper in PAPER.items()
        ),
        # Does it matter where the batch has the only negatives? `memory_1` has IoU 0.5.
        Row("memory_1"),
        *(
            Row(f"memory_1_iou_{iou:g}", f"CKD, no queue, negatives up to IoU {iou:g}",
                options=threshold(iou, queue_capacity=0), embedded_only=True)
            for iou in (0.1, 1.0)
        ),
    ),
    (
        Claim("IoU 0.5 beats excluding almost all overlap", "contrastive", "iou_0.1"),
        Claim("IoU 0.5 beats excluding nothing", "contrastive", "iou_1"),
        Claim("IoU 0.5 beats excluding almost all overlap, no queue", "memory_1",
              "memory_1_iou_0.1"),
        Claim("IoU 0.5 beats excluding nothing, no queue", "memory_1", "memory_1_iou_1"),
    ),
    order=2,
)  # fmt: skip
