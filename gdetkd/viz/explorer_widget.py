"""The proposal explorer in a notebook."""

from __future__ import annotations

import anywidget
import traitlets

from gdetkd.viz.explorer import Proposals, explorer_data, front_end


class ProposalExplorer(anywidget.AnyWidget):
    """Proposals as detectors see them: embeddings, similarities, pictures and neighbors, linked.

    Attributes:
        picked: The row of the picked proposal, -1 for none; may be set.
        brushed: The rows of those brushed; may be set.
    """

    _esm = front_end("js")
    _css = front_end("css")
    data = traitlets.Dict().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    brushed = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, proposals: Proposals) -> None:
        super().__init__(data=explorer_data(proposals))
