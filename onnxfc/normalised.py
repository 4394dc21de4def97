"""Softmaxes over the places of a map: whose weights they are, those of each window or those of the whole image.

They are the trunk's where it needs what they weigh as a map: something slides over it, or it is given out. (Where what
they summed up meets the trunk again the walk itself finds it.) Everywhere else they belong to the head, and each window
has its own, however the sums behind them are spelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx

from onnxfc.graph import Graph, attributes, label
from onnxfc.specs import Shape, Spec
from onnxfc.views import Placed, Refused, ScoreMap, View, Window, is_folded, is_map

SOFTMAX = {"Hardmax", "LogSoftmax", "Softmax"}
_KERNELS = {"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"}
_SLIDING = {"DepthToSpace", "GridSample", "Pad", "Resize", "SpaceToDepth", "Upsample"}


def of_windows(
    graph: Graph, native: Mapping[str, Spec], views: Mapping[str, View], names: set[str], kept: bool
) -> set[str]:
    """Those of the Softmaxes ``names`` whose weights are each window's own.

    ``kept``: pools stay global, so that a sum over the image is one; only windows of what is weighed need their own.
    """
    found = set[str]()
    for node in graph.nodes:
        if label(node) not in names or node.op_type not in SOFTMAX or not _weighs_places(views, node):
            continue
        weighed, extent = list(_weighed(graph, views, node)), _extent(native, views[node.output[0]])
        if any(_as_map(graph, native, views, name, extent) for name in weighed):
            continue
        if not kept or any(_in_window(graph, views, name) for name in weighed):
            found.add(label(node))
    return found


def _weighs_places(views: Mapping[str, View], node: onnx.NodeProto) -> bool:
    """Whether its result is one weight for each place; not of each place for each, as attention has."""
    view = views.get(node.output[0])
    return isinstance(view, Placed) and not view.is_strip and view.other is None


def _weighed(graph: Graph, views: Mapping[str, View], node: onnx.NodeProto) -> Iterator[str]:
    """All tensors with places that come from the weights; what was refused may have some."""
    names = list(node.output)
    for name in names:
        view = views.get(name)
        if not isinstance(view, Placed | Refused) or (is_map(view) and view.trace.windows):
            continue
        yield name
        on = [made for reader in graph.readers.get(name, ()) for made in reader.output]
        names += [made for made in dict.fromkeys(on) if made not in names]


def _extent(native: Mapping[str, Spec], view: View) -> Shape:
    """The native extent of the map whose places are weighed."""
    assert isinstance(view, Placed)
    return view.like.extent


def _as_map(graph: Graph, native: Mapping[str, Spec], views: Mapping[str, View], name: str, extent: Shape) -> bool:
    """Whether the trunk needs a tensor with its places: it is given out, or something slides over it."""
    if name in graph.outputs:
        shape = native[name].shapes
        if is_map(views[name]) or (isinstance(views[name], Refused) and shape and shape[0][2:] == extent):
            return True
    return any(_slides(native, node) for node in graph.readers.get(name, ()) if node.input[0] == name)


def _slides(native: Mapping[str, Spec], node: onnx.NodeProto) -> bool:
    """Whether a node makes each place of its neighbours, and is no pool over the whole native map."""
    if node.op_type in _SLIDING:
        return True
    if node.op_type not in _KERNELS:
        return False
    kernel = _kernel(native, node)
    before, after = (native[name].shapes for name in (node.input[0], node.output[0]))
    whole = before and after and set(after[0][2:]) == {1} and kernel == before[0][2:]
    return math.prod(kernel) != 1 and not (whole and node.op_type != "ConvTranspose")


def _kernel(native: Mapping[str, Spec], node: onnx.NodeProto) -> Shape:
    given = attributes(node).get("kernel_shape")
    if given is None and len(node.input) > 1 and native[node.input[1]].shapes:
        given = native[node.input[1]].native[2:]
    return tuple(given or ())


def _in_window(graph: Graph, views: Mapping[str, View], name: str) -> bool:
    """Whether something reads a tensor as the features of a window."""
    made = [views.get(made) for node in graph.readers.get(name, ()) for made in node.output]
    folded = name in graph.outputs and is_folded(views[name])
    return folded or any(
        isinstance(view, Window | ScoreMap) or (is_map(view) and bool(view.trace.windows)) for view in made
    )
