"""Waiting for a launched run, at what its work dir says of it."""

import json
import os

import pytest

from gdetkd.launch.background import Run
from gdetkd.launch.run_lock import process_start


@pytest.fixture
def run(tmp_path):
    """A run whose process is this one, and which has logged three steps."""
    folder = tmp_path / "time" / "vis_data"
    folder.mkdir(parents=True)
    lines = [json.dumps(dict(loss=3.0 - step, step=step)) for step in (1, 2, 3)]
    (folder / "scalars.json").write_text("\n".join(lines))
    known = dict(pid=os.getpid(), began=process_start(os.getpid()), command=[], folder=".")
    (tmp_path / "launch.json").write_text(json.dumps(known))
    return Run(tmp_path)


def test_for_a_step_that_is_logged(run):
    assert run.wait(step=3, seconds=0) == "running"


@pytest.mark.parametrize("step", [4, None])
def test_for_what_does_not_come(run, step):
    with pytest.raises(TimeoutError, match="running, step 3: not there within 0 s"):
        run.wait(step, seconds=0)


@pytest.mark.parametrize("code, status", [("0", "finished"), ("1", "failed")])
def test_for_the_end(run, code, status):
    known = json.loads((run.work_dir / "launch.json").read_text())
    (run.work_dir / "launch.json").write_text(json.dumps(known | dict(began=-1)))
    (run.work_dir / "launch.exit").write_text(code)
    assert run.wait(seconds=0) == run.wait(step=9, seconds=0) == status
