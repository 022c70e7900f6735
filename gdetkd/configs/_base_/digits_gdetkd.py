# What every distilled run of digits has.
custom_imports = dict(imports=["gdetkd.detectors.mmdet"])
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
