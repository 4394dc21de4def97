"""What a file that takes images of any size says itself, and no rule follows: parts of a fixed number, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.layout.views import Placed, ScoreMap, View, Window
from onnxfc.rules.context_sums import of_image
from onnxfc.shapes.spec import InferenceFailed


def of_own_sizes(state: State, node: onnx.NodeProto, outcome: Outcome) -> bool:
    """Whether what was made has the sizes that the file itself says."""
    if isinstance(outcome, Refusal) or any(isinstance(view, Window | ScoreMap) for view in outcome):
        return False
    made = {name: view for name, view in zip(node.output, outcome, strict=True) if isinstance(view, Placed)}
    return all(state.builder.spec(view.tensor).shapes == state.own_sizes.get(name) for name, view in made.items())


def as_it_is(state: State, node: onnx.NodeProto, views: Sequence[View], built: int) -> list[View] | None:
    """The node as the file has it, for a figure of the whole image; None where its inputs are none of the file's."""
    placed = [view for view in views if isinstance(view, Placed)]
    own = all(state.builder.spec(view.tensor).shapes == state.own_sizes.get(view.original) for view in placed)
    if not placed or not own or any(isinstance(view, Window | ScoreMap) for view in views):
        return None
    del state.builder.nodes[built:]
    ctx = RuleContext(state, node)
    try:
        ctx.keep()
    except InferenceFailed:
        return None
    whole = of_image(ctx, placed[0].provenance)
    return [replace(whole, tensor=name) for name in node.output]
