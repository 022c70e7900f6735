"""YAML and JSON configs are data: no tag calls a function, in any process of the environment."""

import json
import subprocess
import sys

import mmengine
import pytest
import yaml
from mmengine.config import Config

from gdetkd.ops.safe_yaml import DataLoader
from gdetkd.training.config import load_config

BOMBS = (
    '!!python/object/apply:os.system ["touch {marker}"]',
    "!!python/object/new:os.system ['touch {marker}']",
    "!!python/object/apply:builtins.eval [\"open({marker!r}, 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:argparse.Namespace {{a: 1}}",
)


@pytest.mark.parametrize("bomb", BOMBS)
def test_tags_of_python_are_refused(tmp_path, bomb):
    marker, path = tmp_path / "marker", tmp_path / "config.yaml"
    path.write_text("model: 1\nx: " + bomb.format(marker=str(marker)) + "\n")
    child = tmp_path / "child.yml"
    child.write_text("_base_: config.yaml\n")
    for file in (path, child):  # MMEngine reads a base by the same loader
        with pytest.raises(ValueError, match="config .*could not determine a constructor"):
            load_config(str(file))
        with pytest.raises(yaml.YAMLError):
            Config.fromfile(file)
    with pytest.raises(yaml.YAMLError):
        mmengine.load(path)
    assert not marker.exists()


def test_the_first_tag_is_live(tmp_path):
    """By the loader that MMEngine has: the test above can fail."""
    marker = tmp_path / "marker"
    yaml.load("x: " + BOMBS[0].format(marker=str(marker)), yaml.UnsafeLoader)
    assert marker.exists()


def test_what_mmengine_writes_is_read(tmp_path):
    """Tuples included, which are a tag of Python's."""
    settings = dict(model=dict(type="A", sizes=(1, 2), names=["x", (3.5, None)]), flag=True)
    for name in ("a.yaml", "a.json"):
        Config(settings).dump(tmp_path / name)
        read = Config.fromfile(tmp_path / name)
        if name.endswith("json"):
            assert read.to_dict() == json.loads(json.dumps(settings))
        else:
            assert read.to_dict() == settings


def test_a_process_that_imports_mmengine_alone(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "a.yaml").write_text("x: " + BOMBS[0].format(marker=str(marker)))
    code = (
        "from gdetkd import startup\n"  # as gdetkd_startup.pth does
        "import mmengine\n"
        "mmengine.load('a.yaml')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    assert done.returncode and b"could not determine a constructor" in done.stderr
    assert not marker.exists()


def test_the_loader_knows_no_other_python_tag():
    known = [tag for tag in DataLoader.yaml_constructors if tag and "python" in tag]
    assert known == ["tag:yaml.org,2002:python/tuple"]


@pytest.mark.parametrize("said", ["aliases make more", "recursion"])
def test_documents_without_end_are_refused(tmp_path, said):
    """A list of ten lists of ten ..., 10^12 entries in 13 lines; a list that holds itself."""
    tens = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 13))
    lines = ["a0: &a0 x", *tens]
    text = "\n".join(lines) if said == "aliases make more" else "a: &a [*a]"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_config(str(tmp_path / "config.yaml"))
