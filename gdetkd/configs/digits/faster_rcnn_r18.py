_base_ = [
    "../_base_/digits_data.py",
    "../_base_/digits_faster_rcnn.py",
    "../_base_/digits_schedule.py",
    "../_base_/runtime.py",
]
