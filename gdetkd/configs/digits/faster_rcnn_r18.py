# The baseline on digits: `gdetkd train gdetkd::digits/faster_rcnn_r18.py`, 4 minutes on one core.
_base_ = [
    "../_base_/digits_data.py",
    "../_base_/digits_faster_rcnn.py",
    "../_base_/digits_schedule.py",
    "../_base_/runtime.py",
]
