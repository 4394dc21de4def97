"""Recurrent layers along the one axis of the image that is free: sequences of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder.rule_context import OWN_BATCH, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.op_kinds import RECURRENT
from onnxfc.layout.axes import Group, channels, kinds, pure
from onnxfc.layout.views import Fixed, Placed, View
from onnxfc.rules.context_sums import of_image
from onnxfc.rules.registry import PLACED, rule

_ATTRIBUTES = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size")


@rule(*RECURRENT, on=PLACED, attributes=(*_ATTRIBUTES, "input_forget", "layout", "linear_before_reset"))
def recurrent(ctx: RuleContext) -> Outcome | None:
    """LSTM over places in a row is LSTM at every length.

    Y lies as X does, and each step has seen others, so that it is context; the last states are figures of the whole
    image.

    Rows of each image that are sequences of the batch, (W, N H, C), know nothing of each other. None where it reads
    more than one axis of the image in a row, or a row of the native length.
    https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    view = ctx.views[0]
    time = int(ctx.attrs.get("layout", 0))
    if not isinstance(view, Placed) or ctx.has_input(_LENGTHS) or not ctx.only_first or view.other:
        return None
    if any(name and ctx.native(name).shapes is None for name in ctx.node.output):
        return None
    steps, batch = view.groups[time], view.groups[1 - time]
    alone = _in_a_row(ctx, steps) if kinds(batch) == ["batch"] else _in_rows(ctx, steps, batch)
    if not alone or not pure(view.groups[2]):
        return None
    states = _states(ctx, [shape[1 - time] for shape in ctx.builder.spec(view.tensor).shapes or ()])
    if states is None:
        return ctx.refuse("batch-baked", "begins with states of the native batch", OWN_BATCH)
    ctx.keep([*ctx.tensors()[: _STATES[0]], *states])
    made: list[View] = [_last(ctx, view, name) if name else Fixed("") for name in ctx.node.output]
    if ctx.node.output[0]:
        made[0] = _rows(ctx, view, steps, batch)
    return made


def _in_a_row(ctx: RuleContext, steps: Group) -> bool:
    """Whether each image is one sequence, along the one axis that is free."""
    return ctx.state.rank == 1 and kinds(steps) == ["space"]


def _in_rows(ctx: RuleContext, steps: Group, batch: Group) -> bool:
    """Whether rows of each image, or of the only one, are sequences, of which what they are at each step is read."""
    apart = kinds(batch)[:1] == ["batch"] or (ctx.state.single and bool(batch))
    rows = apart and (kinds(steps) == ["space"] or pure(steps))
    return rows and not any(map(ctx.output_used, (1, 2)))


_LENGTHS = 4
"""The input that says how long each sequence of the batch is."""
_STATES = (5, 6)
"""The inputs that hold the first states of each sequence."""


def _states(ctx: RuleContext, many: Sequence[int]) -> list[str] | None:
    """The inputs from the first states on, without states of zeros, with which it begins by itself; None where others
    are not as many as sequences, however ``many``."""
    names = ctx.tensors_from(_STATES[0])
    for at in filter(ctx.has_input, _STATES):
        if _follows(ctx, ctx.views[at], many):
            continue
        states = ctx.native(ctx.node.input[at]).constant
        if states is None or np.any(states):
            return None
        names[at - _STATES[0]] = ""
    return names


def _follows(ctx: RuleContext, state: View | None, many: Sequence[int]) -> bool:
    """Whether there are as many states as sequences, however ``many``."""
    shapes = ctx.builder.spec(state.tensor).shapes if isinstance(state, Fixed) else None
    axis = 0 if ctx.attrs.get("layout", 0) else 1
    return shapes is None or [shape[axis : axis + 1] for shape in shapes] == [(n,) for n in many]


def _rows(ctx: RuleContext, view: Placed, steps: Group, batch: Group) -> Placed:
    """Y: (T, directions, N, hidden), or (N, T, directions, hidden)."""
    batch_first, shape = bool(ctx.attrs.get("layout", 0)), ctx.shape_out()
    directions, hidden = channels(shape[2 if batch_first else 1]), channels(shape[3])
    groups = (batch, steps, directions, hidden) if batch_first else (steps, directions, batch, hidden)
    seen = [ctx.blame(Cause.CONTEXT)] if kinds(steps) == ["space"] else []
    provenance = view.provenance.blamed(*seen)
    made = view.output(ctx.node.output[0], groups=groups, provenance=provenance)
    return replace(made, measured=None if made.is_map else view.like)


def _last(ctx: RuleContext, view: Placed, name: str) -> View:
    """Y_h, Y_c: the states behind the last step."""
    return replace(of_image(ctx, view.provenance), tensor=name)
