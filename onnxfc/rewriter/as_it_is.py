"""What a file that takes images of any size says itself of sizes: figures of the whole image stay what they are."""

from __future__ import annotations

import onnx

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.builder.state import State
from onnxfc.layout.views import Placed, View
from onnxfc.rules.context_sums import of_image


def as_it_is(state: State, node: onnx.NodeProto) -> Outcome | None:
    """The node as the file has it, where its result has one size: a figure of the whole image. None elsewhere."""
    view = state.views[node.input[0]] if node.output[0] in state.roles.one_sized else None
    if not isinstance(view, Placed) or not _has_own_sizes(state, view.original, view):
        return None
    ctx = RuleContext(state, node)
    ctx.keep()
    return [of_image(ctx, view.provenance)]


def of_own_sizes(state: State, node: onnx.NodeProto, made: list[View]) -> Outcome:
    """What a rule made, or a refusal where that has other sizes than the file's."""
    placed = {name: view for name, view in zip(node.output, made, strict=True) if isinstance(view, Placed)}
    if all(_has_own_sizes(state, name, view) for name, view in placed.items()):
        return made
    why = "makes a fixed number of parts, or places, of an image of any size, which would follow the image here"
    return RuleContext(state, node).refuse("size-locked", why, LEAVE)


def _has_own_sizes(state: State, name: str, view: Placed) -> bool:
    """Whether a tensor has the sizes that the file says, where these are known."""
    return state.own_sizes.get(name, made := state.builder.spec(view.tensor).shapes) == made
