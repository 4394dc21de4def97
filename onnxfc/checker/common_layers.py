"""FC layers that two models have in common, for outputs that show nothing: by their shapes, then by their values."""

from __future__ import annotations

from collections.abc import Iterator

from onnxfc.checker.common_values import common_values
from onnxfc.checker.derive_claim import Pair
from onnxfc.claim.claim import Layer
from onnxfc.graph.index import Graph
from onnxfc.proof.layers import behind_layers
from onnxfc.rewriter.make_claim import is_layer
from onnxfc.shapes.model_shapes import Shapes


def common_layers(pair: Pair, threads: int) -> tuple[tuple[Layer, ...], list[str]]:
    """The FC layers before the outputs with what has their values in the second model, and those that nothing has."""
    given = {image.name: image.shape for image in pair.claim.inputs}
    mine, theirs = Shapes(pair.original).at(given) or {}, Shapes(pair.other).at(given) or {}
    whole = {output.form for output in pair.claim.outputs} == {"global"}
    order = [name for node in pair.other.proto.graph.node for name in node.output]
    found: list[Layer] = []
    missing = []
    for name in dict.fromkeys(_last(pair)):
        want = mine.get(name, ())
        wanted = want if whole else (*want, *[1] * len(pair.claim.native_size))
        fitting = [other for other in order if theirs.get(other) == wanted]
        same = common_values(pair.original, pair.other, pair.claim, {name: fitting}, threads) if fitting else []
        found += [Layer(item.original, item.other, "global" if whole else "map") for item in same]
        missing += [] if same else [name]
    return tuple(found), missing


def _last(pair: Pair) -> Iterator[str]:
    graph = Graph(pair.original.proto)
    layers = [Layer(node.output[0], "", "map") for node in graph.nodes if is_layer(node, graph)]
    for output in pair.claim.outputs:
        yield from behind_layers(graph.proto, output.name, layers)
