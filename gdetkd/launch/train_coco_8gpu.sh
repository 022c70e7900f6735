#!/bin/sh
# The paper's headline run on COCO, start to finish: verify the data, train, test, export.
#
#   sh train_coco_8gpu.sh            8 GPUs, COCO 2017 below data/coco
#
# COCO=, WORK=, GPUS=, CONFIG= in the environment change these; arguments go to `gdetkd train`, for
# instance --amp. Started again, it goes on from the last whole checkpoint.
set -eu

COCO=${COCO:-data/coco}
CONFIG=${CONFIG:-gdetkd::coco/gdetkd_faster_rcnn_r50.py}
WORK=${WORK:-work_dirs/$(basename "$CONFIG" .py)}
GPUS=${GPUS:-8}

on_coco() {
    command=$1
    shift
    truth=$COCO/annotations/instances_val2017.json
    gdetkd "$command" "$CONFIG" "$@" \
        --cfg-options "train_dataloader.dataset.data_root=$COCO/" \
        --cfg-options "val_dataloader.dataset.data_root=$COCO/" \
        --cfg-options "test_dataloader.dataset.data_root=$COCO/" \
        --cfg-options "val_evaluator.ann_file=$truth" \
        --cfg-options "test_evaluator.ann_file=$truth"
}

gdetkd data coco --root "$COCO"
on_coco train --gpus "$GPUS" --work-dir "$WORK" --resume last "$@"

best=$(ls -t "$WORK"/best_*_student.pth | head -n 1)
on_coco test "$best" --work-dir "$WORK/test"
gdetkd export "$best" "$WORK/student_fp16.pth" --half
