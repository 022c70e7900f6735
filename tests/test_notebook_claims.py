"""What the notebooks say in words is what their cells print, or what the records say.

`CLAIMS` ties a quoted sentence to a check of the committed outputs or of `results/digits`. Every
takeaway and every paragraph of comparison needs one, and every figure in the text has to stand in
the page's code or outputs.
"""

import math
import re
from functools import cache

import pytest
import run_notebooks as tool
from notebook_claims import CLAIMS
from notebook_page import Page

PAGES = {path.stem: path for path in tool.notebooks()}
COMPARISON = ("**Compare.**", "How to read it:")
# What is no figure of a result: code, formulas, links, references, names of layers and tables.
NOT_A_FIGURE = re.compile(
    "|".join(
        (
            r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"<details>.*?</details>",
            r"\[[^\]]*\]\([^)]*\)", r"https?://\S+", r"\b[Nn]otebooks? [\d, and]+",
            r"95% interval", r"\b\d(?=th|st|nd)", r"\b(?:19|20)\d\d\b", r"\d+x\d+",
            r"\b(?:[Tt]ables?|Figure|section|[Ss]tep|supplement) [A-F]?\.?\d+(?:\.\d+)*"
            r"(?:(?:,| to| and| or) \d+)*",
            r"\b[A-Z]+[A-Za-z]*-?\d+\b", r"\b[A-F]\.\d",
            r"^#.*$", r"^\|.*$", r"^\*?\*?\d\.\*?\*?",
        )
    ),
    re.DOTALL | re.MULTILINE,
)  # fmt: skip
FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)")


@cache
def cells(stem):
    return tool.read(PAGES[stem]).cells


@cache
def words(stem):
    """The text of a page on one line per cell."""
    return [" ".join(c.source.split()) for c in cells(stem) if c.cell_type == "markdown"]


@cache
def shown(stem):
    """Everything that the cells of a page print, tables included."""
    texts = []
    for cell in cells(stem):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += [
                output.get("text", ""),
                data.get("text/markdown", ""),
                data.get("text/plain", ""),
            ]
    return "\n".join(texts)


def code(stem):
    return "\n".join(c.source for c in cells(stem) if c.cell_type == "code")


@pytest.mark.parametrize(
    "stem, sentence", [(stem, each) for stem, page in CLAIMS.items() for each in page]
)
def test_claim_holds(stem, sentence):
    assert any(sentence in text for text in words(stem)), "the page no longer says this"
    assert CLAIMS[stem][sentence](Page(shown(stem), code(stem)))


@pytest.mark.parametrize("stem", PAGES)
def test_every_takeaway_and_comparison_is_tied_to_a_check(stem):
    for text in words(stem):
        parts = re.split(r"> \d\. ", text)[1:] if text.startswith("> **Takeaways**") else []
        parts += [text] if text.startswith(COMPARISON) else []
        for part in parts:
            part = part.replace("> ", "")
            assert any(sentence in part for sentence in CLAIMS[stem]), f"no check for: {part[:200]}"


@pytest.mark.parametrize("stem", PAGES)
def test_figures_in_the_text_stand_in_code_or_outputs(stem):
    known = {float(n.replace(",", "")) for n in FIGURE.findall(code(stem) + "\n" + shown(stem))}
    for cell in cells(stem)[1:]:
        if cell.cell_type != "markdown" or "xercise" in cell.source or "answer" in cell.source:
            continue
        for found in FIGURE.finditer(NOT_A_FIGURE.sub(" ", cell.source)):
            value = float(found.group().rstrip(",").replace(",", ""))
            assert value <= 3 or any(math.isclose(value, other) for other in known), (
                f"{found.group()} is typed: {cell.source[:300]}"
            )
