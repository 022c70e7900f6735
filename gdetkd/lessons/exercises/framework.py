"""Exercises of notebook 9: all parts in one step."""

from __future__ import annotations

from gdetkd.lessons.exercises import Exercise, number_check

GATHERED = 4 * 2 * 512  # GPUs, images per GPU, proposals per image

EXERCISES = {
    "capacity": Exercise(
        "4 GPUs with 2 images x 512 proposals each; K = 10 gathered batches: queue_capacity = ?",
        number_check(
            9 * GATHERED,
            {
                10 * GATHERED: "K also counts the gathered batch, whose rows are not in the queue",
                9: "count rows, not batches",
                GATHERED: "that is the gathered batch; what does the queue hold besides it?",
                9 * 2 * 512: "a batch is gathered from all GPUs",
                9 * 4 * 512: "every GPU has two images",
                10 * GATHERED - 2 * 512: "the current batch is gathered from all GPUs too",
                72 * 1024: "that is the paper's queue, on 8 GPUs",
            },
            "K = gathered batch + queue",
        ),
        9 * 4096,
    ),
}
