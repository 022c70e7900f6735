# What every distilled run of digits has.
custom_imports = dict(
    imports=["gdetkd.detectors", "gdetkd.engine.hooks", "gdetkd.engine.checkpoints"]
)
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
