"""Exercises of the notebooks: an answer comes in, a verdict with a hint goes out.

A stage's exercises live in the module of its name: ``check("proofs.bound", answer)`` asks
``gdetkd.lessons.exercises.proofs.EXERCISES["bound"]``. Every exercise brings its solution and
what a reader may plausibly answer instead; the tests hold the checker to both.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Exercise", "check", "close", "find", "number", "of_stage", "show_solution"]

Check = Callable[[Any], str | None]  # a hint when the answer fails, None when it passes


@dataclass(frozen=True)
class Exercise:
    """What is asked, how an answer is judged, and answers whose verdict is known.

    checks: asked in order; the first hint ends it. A check may raise: the reader is told what.
    solution: an accepted answer (a value or a function).
    wrong: plausible wrong answers by what is wrong with them, at least three.
    """

    question: str
    checks: tuple[Check, ...]
    solution: Any
    wrong: Mapping[str, Any]

    def hint(self, answer: Any) -> str | None:
        """Why the answer is not accepted; None when it is."""
        if answer is ...:
            return f"not answered yet. {self.question}"
        for ask in self.checks:
            try:
                found = ask(answer)
            except Exception as error:  # the reader's function may do anything
                return f"your answer stopped with {type(error).__name__}: {error}"
            if found is not None:
                return found
        return None


def of_stage(stage: str) -> Mapping[str, Exercise]:
    """The exercises of a stage by their short names."""
    return importlib.import_module(f"gdetkd.lessons.exercises.{stage}").EXERCISES


def find(name: str) -> Exercise:
    """The exercise ``STAGE.NAME``.

    Raises:
        ValueError: no such exercise; the message lists the stages, or those of the stage.
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


def number(answer: Any) -> str | None:
    """A check: one finite number, whatever type holds it."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return f"a number is asked for, not {type(answer).__name__}"
    return None if math.isfinite(value) else f"a finite number is asked for, not {value}"
