"""What a file that takes images of any size says itself of sizes: figures of the whole image stay what they are."""

from __future__ import annotations

import onnx

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.layout.views import Placed
from onnxfc.rules.context_sums import of_image


def of_own_sizes(state: State, node: onnx.NodeProto, outcome: Outcome, built: int) -> Outcome:
    """The outcome of a rule; or the node as the file has it, where that has one size (nodes from ``built`` on go); or a
    refusal, where what was made has other sizes than the file's."""
    if node.output[0] in state.roles.one_sized:
        return _as_it_is(state, node, built) or outcome
    if isinstance(outcome, Refusal):
        return outcome
    made = {name: view for name, view in zip(node.output, outcome, strict=True) if isinstance(view, Placed)}
    if all(_has_own_sizes(state, name, view) for name, view in made.items()):
        return outcome
    why = "makes a fixed number of parts, or places, of an image of any size, which would follow the image here"
    return RuleContext(state, node).refuse("size-locked", why, LEAVE)


def _as_it_is(state: State, node: onnx.NodeProto, built: int) -> Outcome | None:
    """The node as the file has it, for a figure of the whole image; None where its input is none of the file's."""
    view = state.views[node.input[0]]
    if not isinstance(view, Placed) or not _has_own_sizes(state, view.original, view):
        return None
    del state.builder.nodes[built:]
    ctx = RuleContext(state, node)
    ctx.keep()
    return [of_image(ctx, view.provenance)]


def _has_own_sizes(state: State, name: str, view: Placed) -> bool:
    return state.builder.spec(view.tensor).shapes == state.own_sizes.get(name)
