"""Head transfer: the teacher's RPN and RCNN in the student, frozen (supplement A)."""

from __future__ import annotations

import torch

from gdetkd.detectors.adapter import Adapter


def freeze_heads(student: Adapter, teacher: Adapter) -> None:
    """Freeze the student's heads; to be called before an optimizer is built.

    Raises:
        ValueError: The heads differ in structure or shape; the first tensor and both shapes are
            named. Or in their anchors or the coding of their boxes; both are shown.
    """
    teacher_heads = teacher.heads()
    if not student.heads():
        raise ValueError(f"transfer_heads: {student.title} has no heads that can be transferred")
    for name, head in student.heads().items():
        teacher_head = teacher_heads.get(name)
        states = head.state_dict(), teacher_head.state_dict() if teacher_head is not None else {}
        for key in dict.fromkeys([*states[0], *states[1]]):
            shapes = [tuple(s[key].shape) if key in s else "missing" for s in states]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"transfer_heads: {name}.{key} is {shapes[0]} in the student and "
                    f"{shapes[1]} in the teacher; transferring heads needs equal FPN "
                    "and FC widths and the same head types. Change the student or switch it off"
                )
        teacher_conventions = teacher.head_conventions(teacher_head)
        for what, convention in student.head_conventions(head).items():
            if convention != teacher_conventions.get(what):
                raise ValueError(
                    f"transfer_heads: {name}.{what} is {convention} in the student and "
                    f"{teacher_conventions.get(what)} in the teacher, to which its weights refer. "
                    "Change the student or switch it off"
                )
        head.requires_grad_(False)


@torch.no_grad()
def transfer_heads(student: Adapter, teacher: Adapter) -> None:
    """Copy the teacher's heads into the student; to be called when its weights are initialized."""
    for name, head in student.heads().items():
        head.load_state_dict(teacher.heads()[name].state_dict())
