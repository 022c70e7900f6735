"""Words that were replaced stay replaced: old names, private idioms, British spellings."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "*.md", "data/*.md", "pyproject.toml", "Makefile", "gdetkd/**/*.py", "gdetkd/**/*.md",
    "gdetkd/**/*.sh", "tests/*.py", "notebooks/*.md", "notebooks/*.ipynb", "results/**/*.md",
)  # fmt: skip

# What to write instead, by the pattern that finds the old word.
NAMES = {
    r"\blook_at\b|\b_heard\b|\b_?Taps\b": "forward_rois, hook_outputs, FeatureRecorder",
    r"\bDetectorView\b": "RoIOutputs",
    r"\bboxes\.overlapping\b": "overlap_mask",
    r"\bshare_of_union\b": "ddp_loss_scale",
    r"\bgather_rows\b": "all_gather_variable",
    r"\brivals?\b": "baselines, others",
    r"\bWholeCheckpointHook\b": "AtomicCheckpointHook",
    r"\bworker\.meet\b": "init_process_group",
    r"\bUnfit\b": "InvalidAnnotation",
    r"\bheld_out\b": "test_split, validation",
    r"\bstructure_agreement\b": "rsa_correlation",
    r"\bsame_class_odds\b": "pairwise_auroc",
    r"\bqueue_holds\b": "queue_content",
}
# As a local variable; in tests, where `theirs` is a library's answer, it may stay.
LOCALS = {r"(?m)^ *(?:own|given|mine|theirs)\b(?:, \w+)* = ": "student_*, teacher_*"}
IDIOMS = {
    r"\b(?:told|tell|tells|telling) (?:\w+ ){0,3}apart\b": "distinguish",
    r"\balike\b": "similar, in the same way, both",
    r"\banew\b": "again, re-encoded",
    r"\bby heart\b": "memorized",
    r"\blikeness(?:es)?\b": "similarity",
    r"\bresembles? whom\b": "which proposals are similar",
    r"\bheard\b": "recorded",
    r"\bless (?:the (?:mean|student|experiment)|student's|what|one GPU)\b": "minus",
    r"\bnone that (?:is|are)\b": "no ...",
    r"\b(?:a|one) (?:row|line|panel|bar|column|cell|file|figure|number|entry|weight) an? [a-z]+": (
        "one ... per ..."
    ),
    r"\b(?:is|are|be|being|were|was) asked for\b": "expected",
    r"\bcosts nothing\b": "is free",
    r"\blook(?:s|ed|ing)? at (?:the same|given|these|those) boxes\b": "encode the same boxes",
}
BRITISH = {
    r"\b\w*(?:colour|behaviour|favour|neighbour|honour)\w*": "-or",
    r"\b\w*(?:normal|local|initial|serial|real|general|organ|recogn|summar|minim|maxim|penal"
    r"|special|standard|synchron|visual|optim|token|quant|vector|regular)is(?:e|ed|es|ing|ation)"
    r"(?:s|r|rs)?\b": "-ize",
    r"\banalys(?:e|ed|ing)\b": "-yze",
    r"\b(?:centre[ds]?|metre[s]?|licence[sd]?|grey|artefacts?|catalogue[sd]?|judgement|whilst)\b": (
        "center, meter, license, gray, artifact, catalog, judgment, while"
    ),
    r"\b(?:label|model|travel|level)l(?:ed|ing)\b": "one l",
}
WORDS = NAMES | LOCALS | {f"(?i){pattern}": word for pattern, word in (IDIOMS | BRITISH).items()}
# Where an old word is right: by file, the patterns that are not looked for.
ALLOWED = {
    "tests/test_language.py": set(WORDS),
}


def text_of(path: Path) -> str:
    """What a person wrote in a file: of a notebook its cells, without their outputs."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def old_words(text: str, words: dict[str, str] = WORDS) -> list[tuple[int, str, str]]:
    """(line, what stands there, what to write instead) for every old word in a text."""
    return sorted(
        (text.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), instead)
        for pattern, instead in words.items()
        for match in re.finditer(pattern, text)
    )


def problems(path: Path, root: Path = ROOT) -> list[str]:
    name = path.relative_to(root).as_posix()
    allowed = ALLOWED.get(name, set()) | (set(LOCALS) if name.startswith("tests/") else set())
    words = {pattern: word for pattern, word in WORDS.items() if pattern not in allowed}
    return [f"{name}:{n}: {old!r}, say: {new}" for n, old, new in old_words(text_of(path), words)]


def test_texts_use_the_words_of_the_field():
    paths = sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)})
    assert len(paths) > 100  # the patterns still find the sources
    lines = [line for path in paths for line in problems(path)]
    assert not lines, "\n".join([f"{len(lines)} old words:", *lines])


def test_every_exception_is_needed():
    for name, patterns in ALLOWED.items():
        text = text_of(ROOT / name)
        assert any(re.search(pattern, text) for pattern in patterns), name


@pytest.mark.parametrize(
    "text, old",
    [
        ("the branches are not told apart", "told apart"),
        ("tell the two apart", "tell the two apart"),
        ("Which proposals it finds alike", "alike"),
        ("one weight a level of every proposal", "one weight a level"),
        ("AP less the mean", "less the mean"),
        ("the colours of a Behaviour", "colours"),
        ("normalisation", "normalisation"),
        ("it was localised", "localised"),
        ("def f():\n    given, other = 1, 2", "given, other ="),
        ("view = DetectorView(rois)", "DetectorView"),
    ],
)
def test_old_words_are_found(text, old):
    assert old in [found for _, found, _ in old_words(text)]


@pytest.mark.parametrize(
    "text",
    [
        "a detector of its own, given a box",
        "no less than the mean",
        "a ray, optimistic, a promise, precise",
        "ignore[:, 0] = True",
        "student_own = given",
    ],
)
def test_plain_english_is_not(text):
    assert not old_words(text)
