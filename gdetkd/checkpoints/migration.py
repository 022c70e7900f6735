"""Checkpoints of distilled detectors from before `Distiller`, under the names of today."""

from __future__ import annotations

from collections import OrderedDict

# What a distilled detector consisted of, at the top of its state dict.
OLD_PARTS = ("student", "objective", "sampling")
OLD_COMPONENTS = {
    "rigid": "fitnet",
    "masked": "masked_imitation",
    "normalized": "pkd",
    "localization": "localization_distillation",
}


def rename_old_keys(checkpoint: dict) -> None:
    """Rename, in place, the weights of a distilled detector that was saved before `Distiller`.

    Others are left alone. An optimizer's state goes by the order of parameters, which is the same.
    """
    for name in ("state_dict", "ema_state_dict"):
        state = checkpoint.get(name)
        if isinstance(state, dict) and is_old(state):
            checkpoint[name] = renamed(state)


def is_old(state: dict) -> bool:
    """Whether all weights are under the old names (averaged ones have a step count)."""
    tops = {str(key).removeprefix("module.").split(".")[0] for key in state} - {"steps"}
    return "student" in tops and tops <= {*OLD_PARTS, "data_preprocessor"}


def renamed(state: dict) -> OrderedDict:
    """The same tensors, with the versions of their modules, under the names of today."""
    result = OrderedDict((_new_name(key), value) for key, value in state.items())
    versions = getattr(state, "_metadata", None)
    if isinstance(versions, dict):
        result._metadata = OrderedDict((_new_name(key), value) for key, value in versions.items())
    return result


def _new_name(name: str) -> str:
    wrapper = "module." if name.startswith("module.") else ""
    parts = name.removeprefix(wrapper).split(".")
    if parts[0] not in OLD_PARTS:
        return name
    if parts[0] == "objective" and parts[2:3] == ["components"] and len(parts) > 3:
        parts[3] = OLD_COMPONENTS.get(parts[3], parts[3])
    return wrapper + ".".join(["distiller", *parts])
