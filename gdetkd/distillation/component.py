"""What a distillation component is, and the registry by which settings name it.

A component is one file that registers itself::

    @register_component("my_loss")
    class MyLoss(Component):
        student_fields = ("logits",)
        teacher_fields = ("logits",)

        def __init__(self, student, teacher, temperature=1.0):
            super().__init__()
            ...

        def compute(self, student, teacher):
            loss = ...
            return ComponentOutput(loss, len(student.rois))

and is then a setting like any other::

    components = dict(my_loss=dict(weight=1.0, temperature=2.0))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from gdetkd.distillation.balance import share_of
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

COMPONENTS: dict[str, type[Component]] = {}


class ComponentOutput(NamedTuple):
    """What a component makes of one batch.

    Attributes:
        loss: Scalar, unweighted: the mean over `count` things of this process.
        count: How many things (boxes, cells, images) that mean is over. With several
            processes it makes the mean of their losses the mean over the union of their batches.
        diagnostics: Scalars to log, by name; no name contains 'loss'.
    """

    loss: Tensor
    count: Tensor | int
    diagnostics: Mapping[str, Tensor] = MappingProxyType({})


class Component(nn.Module):
    """A term of the objective. What it learns is trained with the student and dropped at inference.

    It is built from the `DetectorSpec` of student and teacher and its settings, all keywords with
    defaults; a pair that it cannot serve, or a setting out of range, raises ValueError then. At a
    step it gets the `RoIOutputs` of both for the same boxes; the teacher's are constants.

    Attributes:
        name: By which it is registered.
        student_fields, teacher_fields: Optional fields of `RoIOutputs` that `compute` needs.
    """

    name = "component"
    student_fields: tuple[str, ...] = ()
    teacher_fields: tuple[str, ...] = ()

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        """Check that both have what `compute` needs, and compute.

        Raises:
            ValueError: A field is missing; the message names the component and the field.
        """
        student.require(self.student_fields, f"{self.name}: expected the student's RoIOutputs")
        teacher.require(self.teacher_fields, f"{self.name}: expected the teacher's RoIOutputs")
        return self.compute(student, teacher)

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        """The loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__}.compute")

    def undo(self) -> None:
        """Take back what the last forward pass left behind (a queue's rows); nothing by default."""


def register_component(name: str) -> Callable[[type[Component]], type[Component]]:
    """Make a component known by a name, from any module that settings import.

    Raises:
        ValueError: The name is taken by another class, or no Python identifier.
    """

    def register(component: type[Component]) -> type[Component]:
        known = COMPONENTS.get(name)
        if known is not None and known.__qualname__ != component.__qualname__:
            raise ValueError(f"component {name!r} is {known.__qualname__} already; choose another")
        if not name.isidentifier():
            raise ValueError(f"expected a component's name to be an identifier, got {name!r}")
        component.name = name
        COMPONENTS[name] = component
        return component

    return register


def build_component(
    name: str, student: DetectorSpec, teacher: DetectorSpec, settings: Mapping[str, Any]
) -> Component:
    """Build a component from its settings, its weight left out.

    Raises:
        ValueError: A setting that it does not have, or what the component itself refuses.
    """
    kind = COMPONENTS[name]
    known = list(signature(kind).parameters)[2:]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(
            f"distillation component {name!r}: expected settings among weight, "
            f"{', '.join(known) or 'and no other'}, got {', '.join(map(repr, unknown))}"
        )
    return kind(student, teacher, **settings)


def active_weights(components: Mapping[str, Mapping[str, Any]]) -> dict[str, float | str]:
    """The weights above 0, and those that are shares, by component; checks names and weights.

    Raises:
        ValueError: An unknown component, or a weight that is missing, negative or not finite.
    """
    weights = {}
    for name, settings in components.items():
        if name not in COMPONENTS:
            raise ValueError(
                f"expected distillation components among {sorted(COMPONENTS)}, got {name!r}"
            )
        weight = settings.get("weight") if isinstance(settings, Mapping) else None
        if share_of(weight) is not None:
            weights[name] = weight
            continue
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight < float("inf"):
            raise ValueError(
                f"distillation component {name!r}: expected 'auto', a share of the gradient "
                f"such as '20%', or a finite weight >= 0, got {weight!r}"
            )
        if weight:
            weights[name] = float(weight)
    return weights
