# What every distilled run of digits has.
custom_imports = dict(
    imports=["gdetkd.detectors.mmdet", "gdetkd.training.hooks", "gdetkd.checkpoints.hook"]
)
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
