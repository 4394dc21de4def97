"""Node data for Model Explorer: colours and a line for each node of a graph that is looked at there.

The format is Model Explorer's ``GraphNodeData``: ``results`` by node (its name, by which ONNX nodes are known
there; what a node without one makes), each with a ``value``, any text, and a colour. A file is for the graph in view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxfc.errors import Refusal
from onnxfc.reports.rows import size

if TYPE_CHECKING:
    from onnxfc.claim.blame import Blame
    from onnxfc.inspector import Stage

NAME = "onnxfc: stride, receptive field, blame"
MARK = '"name": "onnxfc'
"""How such a file begins, so that it is known for a report."""

_BLUES = ("#eff6ff", "#d6e8fb", "#b5d4f5", "#8fbcec", "#659fdf", "#3f80cc", "#2661ab", "#154584")
"""From the finest stride to the coarsest."""
_BLAMED, _REFUSED = "#f0a030", "#cc3333"


def node_data(nodes: Sequence[Stage], blames: Sequence[Blame] = (), refusals: Sequence[Refusal] = ()) -> dict[str, Any]:
    """What each node's elements read of the image; which nodes make cells differ from crops; which are refused."""
    twice = {name for name, count in Counter(item.node for item in nodes).items() if count > 1}
    strides = list(dict.fromkeys(item.stride for item in nodes))
    results: dict[str, dict[str, str]] = {}
    for item in nodes:
        unnamed = item.node in twice or item.node.endswith(f" -> {item.tensor}")
        told = f"stride {'x'.join(item.stride)}, reads {size(item.field)} px from {', '.join(map(str, item.start))}"
        colour = _BLUES[min(strides.index(item.stride), len(_BLUES) - 1)]
        results[item.tensor if unnamed else item.node] = {"value": told, "bgColor": colour}
    marks = [(item.node, item.cause.value, _BLAMED) for item in blames]
    marks += [(item.node, f"refused: {item.code}", _REFUSED) for item in refusals if item.node]
    for node, told, colour in marks:
        key = node.rpartition(" -> ")[2]
        more = f"; {results[key]['value']}" if key in results else ""
        results[key] = {"value": told + more, "bgColor": colour}
    return {"name": NAME, "results": results}
