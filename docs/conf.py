"""The site: `make site`. The repository is its source, so every page is where its file is."""

from __future__ import annotations

import re

import latex2mathml.converter
from docutils import nodes

import gdetkd

project, author = "gdetkd", "The gdetkd developers"
version = release = gdetkd.__version__
copyright = "the gdetkd developers"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = [
    "docs/*.md", "*.md", "data/README.md", "gdetkd/**/README.md", "notebooks/*.ipynb",
    "notebooks/*.md", "notebooks/*/*.md", "results/*.md", "results/*/*.md",
]  # fmt: skip
exclude_patterns = ["gdetkd/reproduce/pages/**"]
napoleon_use_ivar = True  # fields of named tuples are described once
html_theme = "furo"
html_title = "gdetkd"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_theme_options = {"footer_icons": []}

default_role = "code"
toc_object_entries_show_parents = "hide"
nb_execution_mode = "off"  # notebooks are committed as run
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_heading_anchors = 4
# A link to a file that is no page leads to the file itself, which is copied.
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

CONTENTS = {
    "Course": ["notebooks/README", "notebooks/[0-9]*", "notebooks/GLOSSARY", "notebooks/*/*"],
    "Use": ["data/README", "gdetkd/*/README", "docs/api"],
    "Evidence": ["results/RECIPE", "results/README", "results/*/*"],
    "Project": ["ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"],
}


def adapt_page(app, name: str, source: list[str]) -> None:
    """Links in HTML lead to pages; the README, as the first page, gets the table of contents."""
    source[0] = re.sub(r'(<a href="[^"]+)\.(ipynb|md)"', r'\1.html"', source[0])
    if name == app.config.root_doc:
        for caption, pages in CONTENTS.items():
            head = f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n"
            source[0] += head + "\n".join(pages) + "\n```\n"


def mathml(self, node: nodes.Node) -> None:
    """Formulas as MathML, which browsers draw without a script or a network."""
    display = "inline" if isinstance(node, nodes.math) else "block"
    self.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", adapt_page)
    app.add_node(nodes.math, override=True, html=(mathml, None))
    app.add_node(nodes.math_block, override=True, html=(mathml, None))
