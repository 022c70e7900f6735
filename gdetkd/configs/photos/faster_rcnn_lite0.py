# The baseline on photos: `gdetkd train gdetkd::photos/faster_rcnn_lite0.py`.
_base_ = [
    "../_base_/photos_data.py",
    "../_base_/photos_faster_rcnn.py",
    "../_base_/photos_schedule.py",
    "../_base_/runtime.py",
]
default_hooks = dict(checkpoint=dict(interval=250))
