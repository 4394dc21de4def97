"""Where the original's head is cut off: its nodes, and the shapes that it reads of what is ahead of the cut."""

from __future__ import annotations

import pytest
from onnx import parser

from onnxfc.proof.head import plan_head

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,8,8] image, float[N] side) => (float[N,M] scores)
<float[6,3,1,1] w, int64[2] zero = {0, -1}> {
  trunk = Conv(image, w)
  bound = Relu(trunk)
  behind = Tanh(bound)
  own = Shape(behind)
  ahead = Shape(trunk)
  count = Size(image)
  constant = Shape(w)
  a = Mul(own, ahead)
  b = Mul(a, count)
  c = Slice(b, constant, constant)
  flat = Reshape(behind, c)
  scores = Mul(flat, side)
}"""


def test_shapes_of_what_is_ahead_keep_their_values() -> None:
    """Those of what the head makes itself, and of a weight, are its own."""
    plan = plan_head(parser.parse_model(GRAPH).graph, ["scores"], ["bound"], ["image"])
    assert sorted(plan.shapes) == ["ahead", "count"]
    made = [parser.parse_model(GRAPH).graph.node[i].output[0] for i in plan.nodes]
    assert made == ["behind", "own", "constant", "a", "b", "c", "flat", "scores"]
    assert (plan.boundaries, plan.sides, plan.leak) == (("bound",), ("side",), "")


@pytest.mark.parametrize(
    ("graph", "leak"), [(GRAPH, ""), (GRAPH.replace("Mul(flat, side)", "Mul(flat, image)"), "image")]
)
def test_an_image_besides_through_the_boundary_is_a_leak(graph: str, leak: str) -> None:
    assert plan_head(parser.parse_model(graph).graph, ["scores"], ["bound"], ["image"]).leak == leak
