"""x - mean(x), where nothing but pools reads it: the deviation of each window from its own mean, not from the image's.

So a standard deviation in a head is that of a window, as the original's is that of its one window.
"""

from __future__ import annotations

import onnx

from onnxfc.graph import attributes, label
from onnxfc.normalised import SOFTMAX
from onnxfc.regroup import Groups
from onnxfc.rules.elementwise import BROADCAST, UNARY
from onnxfc.rules.tables import summed_by
from onnxfc.site import Site, positive
from onnxfc.views import Context, Map

_POOLS = {"AveragePool", "GlobalAveragePool", "ReduceMean"}
_ENDS = {"GlobalAveragePool", "GlobalMaxPool", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"}
_ENDS |= {"ReduceSum", "ReduceSumSquare"}
_MOVES = {"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def deviates(site: Site, view: Map) -> bool:
    """Whether the node is a map less its own mean, and only pools over all places read what comes of it."""
    if site.op_type != "Sub" or view.trace.windows or site.state.global_pool != "window":
        return False
    if site.shape_out() != site.native(view.original).native:
        return False
    return view.original in site.node.input and mean_of(site, view) is not None and _only_pooled(site, view)


def mean_of(site: Site, view: Map) -> str | None:
    """The pool that the node's other input comes from, if that is a mean of the map over its places, moved at most."""
    names = [name for name in site.node.input if name != view.original]
    node = site.state.graph.producers.get(names[0]) if names else None
    while node is not None and node.op_type in _MOVES:
        node = site.state.graph.producers.get(node.input[0])
    if node is None or node.op_type not in _POOLS or node.input[0] != view.original:
        return None
    return label(node) if _ends(site, node, view) else None


def _only_pooled(site: Site, view: Map) -> bool:
    """Whether all ways from the node end at pools, over elementwise operators."""
    graph, names = site.state.graph, [site.node.output[0]]
    shape = site.shape_out()
    for name in names:
        readers = graph.readers.get(name, ())
        if name in graph.outputs or not readers:
            return False
        for node in readers:
            alone = node.op_type in BROADCAST or node.op_type in UNARY
            if alone and site.native(node.output[0]).shapes == (shape,):
                names += [] if node.output[0] in names else [node.output[0]]
            elif not _ends(site, node, view):
                return False
    return True


def _ends(site: Site, node: onnx.NodeProto, view: Map) -> bool:
    if node.op_type not in _ENDS:
        return False
    if node.op_type.startswith("Global"):
        return view.spatial == tuple(range(2, len(site.shape_out())))
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        values = site.native(node.input[1]).values
        axes = None if values is None else values[0].tolist()
    rank = len(site.shape_out())
    return axes is not None and {positive(int(axis), rank) for axis in axes} == set(view.spatial)


def weighed_deviation(site: Site, context: Context, groups: Groups) -> bool:
    """Whether a map less its mean by a Softmax over places is only summed up again: both are each window's own."""
    makers = {label(node) for node in site.state.graph.nodes if node.op_type in SOFTMAX}
    weighed = bool(context.trace.pools & site.state.undecided & makers) and site.state.global_pool != "keep"
    return weighed and site.op_type == "Sub" and summed_by(site, groups) is not None
