"""Head transfer: the teacher's RPN and RCNN in the student, frozen (supplement A)."""

from __future__ import annotations

import torch
from torch import nn

from gdetkd.detectors.adapter import Adapter


def freeze_heads(student: Adapter, teacher: Adapter) -> None:
    """Freeze the student's heads; to be called before an optimizer is built.

    Raises:
        ValueError: The heads differ in structure or shape; the first tensor and both shapes are
            named. Or in their anchors or the coding of their boxes; both are shown.
    """
    for name, head in student.heads().items():
        given = teacher.heads().get(name)
        mine = head.state_dict()
        theirs = given.state_dict() if given is not None else {}
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            shapes = [tuple(s[key].shape) if key in s else "missing" for s in (mine, theirs)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"transfer_heads: {name}.{key} is {shapes[0]} in the student and "
                    f"{shapes[1]} in the teacher; transferring heads needs equal FPN "
                    "and FC widths and the same head types. Change the student or switch it off"
                )
        for what, own in _conventions(head).items():
            other = _conventions(given).get(what)
            if own != other:
                raise ValueError(
                    f"transfer_heads: {name}.{what} is {own} in the student and {other} in the "
                    "teacher, whose weights speak of its own. Change the student or switch it off"
                )
        head.requires_grad_(False)


@torch.no_grad()
def transfer_heads(student: Adapter, teacher: Adapter) -> None:
    """Copy the teacher's heads into the student; to be called when its weights are initialised."""
    for name, head in student.heads().items():
        head.load_state_dict(teacher.heads()[name].state_dict())


def _conventions(head: nn.Module) -> dict[str, object]:
    """What a head's outputs are relative to, which no weight's shape tells."""
    if isinstance(head, nn.ModuleList):  # the stages of a cascade
        stages = [_conventions(stage) for stage in head]
        return {f"{i}.{what}": own for i, stage in enumerate(stages) for what, own in stage.items()}
    found: dict[str, object] = {}
    if hasattr(head, "prior_generator"):
        priors = head.prior_generator
        plain = type(priors).__repr__ is object.__repr__  # points: nothing but their numbers
        text = f"{type(priors).__name__}{vars(priors)}" if plain else str(priors)
        found["prior_generator"] = " ".join(text.split())
    coder = getattr(head, "bbox_coder", None)
    if hasattr(coder, "stds"):
        found["bbox_coder"] = dict(means=tuple(coder.means), stds=tuple(coder.stds))
    for what in ("norm_on_bbox", "centerness_on_reg"):  # FCOS
        if hasattr(head, what):
            found[what] = getattr(head, what)
    return found
