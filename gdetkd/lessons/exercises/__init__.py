"""Exercises of the notebooks: they take an answer and return a verdict with a hint.

The exercises of a stage are in the module of that name: ``check("proofs.bound", answer)`` looks up
``gdetkd.lessons.exercises.proofs.EXERCISES["bound"]``. The tests require each checker to accept its
solution and to reject plausible wrong answers.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "Exercise", "check", "close", "find", "function_check", "known_mistake", "number",
    "number_check", "of_stage", "show_solution",
]  # fmt: skip

Check = Callable[[Any], str | None]  # a hint if the answer is wrong, None if it is right


@dataclass(frozen=True)
class Exercise:
    """A question, the check of its answer, and a solution.

    check: returns a hint, or None for a right answer. If it raises, the reader sees the error.
    solution: an accepted answer (a value or a function).
    """

    question: str
    check: Check
    solution: Any

    def hint(self, answer: Any) -> str | None:
        """Why the answer is not accepted; None when it is."""
        if answer is ...:
            return f"not answered yet. {self.question}"
        try:
            return self.check(answer)
        except Exception as error:  # the reader's function may do anything
            return f"your answer stopped with {type(error).__name__}: {error}"


def of_stage(stage: str) -> Mapping[str, Exercise]:
    """The exercises of a stage by their names without the stage."""
    return importlib.import_module(f"gdetkd.lessons.exercises.{stage}").EXERCISES


def find(name: str) -> Exercise:
    """The exercise ``STAGE.NAME``.

    Raises:
        ValueError: There is no such exercise; the message lists those that exist.
    """
    stage, _, short = name.partition(".")
    stages = [module.name for module in pkgutil.iter_modules(__path__)]
    if stage not in stages:
        raise ValueError(f"expected STAGE.NAME with a stage of {stages}, got {name!r}")
    exercises = of_stage(stage)
    if short not in exercises:
        raise ValueError(f"expected one of {[f'{stage}.{e}' for e in exercises]}, got {name!r}")
    return exercises[short]


def check(name: str, answer: Any) -> bool:
    """Print a verdict on the answer to exercise ``STAGE.NAME`` and return it."""
    hint = find(name).hint(answer)
    print(f"{name}: correct." if hint is None else f"{name}: {hint}")
    return hint is None


def show_solution(name: str) -> None:
    """Print the solution: a function's source, or the value."""
    solution = find(name).solution
    print(inspect.getsource(solution) if inspect.isfunction(solution) else solution)


def close(actual: Any, expected: Any, relative: float = 1e-4, absolute: float = 1e-6) -> bool:
    """Whether numbers, arrays or tensors agree in shape and value."""
    actual, expected = (
        x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        for x in (actual, expected)
    )
    return actual.shape == expected.shape and bool(
        np.allclose(actual, expected, rtol=relative, atol=absolute)
    )


def known_mistake(actual: Any, mistakes: Mapping[str, Any]) -> str | None:
    """The first hint whose wrong result is `close` to the actual one; None without one."""
    return next((hint for hint, wrong in mistakes.items() if close(actual, wrong)), None)


def number(answer: Any) -> str | None:
    """A check for one finite number of any type (Python, NumPy, torch)."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return f"expected a number, got {type(answer).__name__}"
    return None if math.isfinite(value) else f"expected a finite number, got {value}"


def number_check(
    expected: float, hints: Mapping[float, str], otherwise: str, absolute: float = 1e-4
) -> Check:
    """A check for one number.

    Args:
        expected: The right answer, accepted within ``absolute``.
        hints: By plausible wrong answer, what is wrong with it.
        otherwise: The hint for all other answers; ``{value}`` in it becomes the answer.
    """

    def check_number(answer: Any) -> str | None:
        if hint := number(answer):
            return hint
        value = float(answer)
        if abs(value - expected) < absolute:
            return None
        near = (hint for wrong, hint in hints.items() if abs(value - wrong) < absolute)
        return next(near, otherwise.format(value=f"{value:g}"))

    return check_number


def function_check(reference: Callable[..., float], cases: Sequence[tuple], case: str) -> Check:
    """A check for a function that returns one number, compared with ``reference`` on ``cases``.

    case: How a hint describes the arguments, formatted with them: "{} GPUs, {} images".
    """

    def check_function(answer: Callable[..., Any]) -> str | None:
        for arguments in cases:
            value = answer(*arguments)
            if hint := number(value):
                return hint
            if not close(float(value), reference(*arguments)):
                return f"{case.format(*arguments)}: the answer is not {float(value):g}"
        return None

    return check_function
