"""Every checker accepts its solution and rejects the plausible wrong answers."""

import ast
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from wrong_answers import WRONG

from gdetkd.lessons import exercises
from gdetkd.lessons.exercises import (
    Exercise,
    check,
    close,
    find,
    function_check,
    number,
    number_check,
    show_solution,
)

STAGES = [module.name for module in pkgutil.iter_modules(exercises.__path__)]
EVERY = [f"{stage}.{name}" for stage in STAGES for name in exercises.of_stage(stage)]


@pytest.mark.parametrize("name", EVERY)
def test_solution_is_accepted_and_wrong_answers_are_not(name):
    exercise = find(name)
    assert exercise.hint(exercise.solution) is None
    assert len(WRONG[name]) >= 3
    for mistake, answer in WRONG[name].items():
        assert exercise.hint(answer), f"accepts {mistake}"
    assert exercise.hint(...).startswith("not answered yet. ")


@pytest.mark.parametrize("path", Path(exercises.__file__).parent.glob("*.py"), ids=lambda p: p.stem)
def test_exercises_need_torch_numpy_and_the_method_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or node.names[0].name
            top, _, rest = module.partition(".")
            assert top in {*sys.stdlib_module_names, "torch", "numpy", "gdetkd"}, module
            assert top != "gdetkd" or rest.partition(".")[0] in {"losses", "theory", "lessons"}, (
                module
            )


def test_verdict_is_printed_and_returned(monkeypatch, capsys):
    doubled = Exercise(
        "Double a number.",
        lambda f: None if f(3) == 6 else "3 should give 6",
        solution=lambda x: 2 * x,
    )
    monkeypatch.setattr(exercises, "find", lambda name: doubled)
    assert check("stage.doubled", lambda x: x + x)
    assert not check("stage.doubled", lambda x: x)
    assert not check("stage.doubled", lambda x: x["y"])
    assert not check("stage.doubled", ...)
    show_solution("stage.doubled")
    assert capsys.readouterr().out.splitlines()[:4] == [
        "stage.doubled: correct.",
        "stage.doubled: 3 should give 6",
        "stage.doubled: your answer stopped with TypeError: 'int' object is not subscriptable",
        "stage.doubled: not answered yet. Double a number.",
    ]


def test_unknown_exercise_lists_the_existing_ones():
    with pytest.raises(ValueError, match="STAGE.NAME"):
        find("no_such_stage.bound")
    with pytest.raises(ValueError, match=r"proofs\."):
        find("proofs.no_such_exercise")


def test_close_compares_shapes_too():
    assert close(torch.tensor([1.0, 2.0], requires_grad=True), [1, 2.0001])
    assert not close([1.0, 1.0], 1.0)
    assert not close(1.0, 1.01)


@pytest.mark.parametrize(
    "answer, accepted", [(1, True), (torch.tensor(2.5), True), ("two", False), (np.nan, False)]
)
def test_number(answer, accepted):
    assert (number(answer) is None) == accepted


def test_number_check_explains_known_mistakes():
    ask = number_check(0.5, {2.0: "divide"}, "it is not {value}")
    assert ask(0.50005) is None
    assert [ask(2), ask(torch.tensor(0.25))] == ["divide", "it is not 0.25"]
    assert ask("half") == "expected a number, got str"


def test_function_check_describes_the_failing_case():
    ask = function_check(lambda a, b: a * b, ((1, 2), (3, 4)), "{} rows of {}")
    assert ask(lambda a, b: a * b) is None
    assert ask(lambda a, b: 2) == "3 rows of 4: the answer is not 2"
    assert ask(lambda a, b: None) == "expected a number, got NoneType"
