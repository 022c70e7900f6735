"""The curves of a training: loss and average precision by step."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from gdetkd.viz.curves import curves


def test_loss_and_average_precision_are_drawn_where_they_are():
    figure, ax = plt.subplots()
    assert curves(pd.DataFrame(), ax) is ax and ax.texts[0].get_text() == "nothing logged yet"
    frame = pd.DataFrame({"loss": [3.0, 2.0, 1.5]}, index=[50, 100, 150])
    frame.loc[150, "coco/bbox_mAP"] = 0.4
    figure, ax = plt.subplots()
    curves(frame, ax)
    (loss,), (precision,) = (axes.lines for axes in figure.axes)
    assert loss.get_xydata().tolist() == [[50, 3], [100, 2], [150, 1.5]]
    assert precision.get_xydata().tolist() == [[150, 0.4]]
    plt.close("all")


@pytest.mark.parametrize(
    "name, label",
    [
        ("coco/bbox_mAP", "AP"),
        ("voc07_11points/mAP", "mAP"),
        ("pascal_voc/mAP", "mAP"),
        ("pascal_voc/AP50", "AP50"),
    ],
)
def test_the_average_precision_has_an_axis_whatever_the_evaluator(name, label):
    columns = {"loss": [2.0, 1.0], "time": [0.1, 0.1], name: [None, 0.5]}
    figure, ax = plt.subplots()
    curves(pd.DataFrame(columns, index=[1, 2], dtype=float), ax)
    right = figure.axes[1]
    assert right.get_ylabel() == label and right.lines[0].get_xydata().tolist() == [[2, 0.5]]
    plt.close("all")
