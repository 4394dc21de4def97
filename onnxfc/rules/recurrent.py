"""Recurrent layers along the one axis of the image that is free, sequences of any length; or over frames of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from onnxfc.builder import ops
from onnxfc.builder.rule_context import OWN_BATCH, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.op_kinds import RECURRENT
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import Group, channels, kinds, pure
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, View, Window
from onnxfc.rules.broadcast import with_context
from onnxfc.rules.context_sums import of_image
from onnxfc.rules.registry import FEATURES, PLACED, rule

_ATTRIBUTES = (
    *("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"),
    *("input_forget", "layout", "linear_before_reset"),
)


@rule(*RECURRENT, on=PLACED, attributes=_ATTRIBUTES)
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
    if not isinstance(view, Placed) or ctx.has_input(_LENGTHS) or not _alone(ctx) or view.other:
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


def _alone(ctx: RuleContext) -> bool:
    """Whether all that it reads beside the sequence is fixed, but for first states, which may be of the whole image."""
    states = {at for at in _STATES if ctx.has_input(at) and isinstance(ctx.views[at], Context)}
    return all(view is None or isinstance(view, Fixed) or at in states for at, view in enumerate(ctx.views) if at)


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
    provenance = with_context(ctx, view.provenance.blamed(*seen))
    made = view.output(ctx.node.output[0], groups=groups, provenance=provenance)
    return replace(made, measured=None if made.is_map else view.like)


def _last(ctx: RuleContext, view: Placed, name: str) -> View:
    """Y_h, Y_c: the states behind the last step."""
    return replace(of_image(ctx, with_context(ctx, view.provenance)), tensor=name)


@rule(*RECURRENT, on=FEATURES, attributes=_ATTRIBUTES)
def over_frames(ctx: RuleContext) -> Outcome | None:
    """LSTM over frames of each image is LSTM over those of each window.

    The cells are laid into the batch, and out of it again. None where its steps are places of a window. https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    view, at = ctx.views[0], 1 - int(ctx.attrs.get("layout", 0))
    if ctx.has_input(_LENGTHS) or not ctx.only_first or not isinstance(view, Window | ScoreMap):
        return None
    if isinstance(view, Window) and (view.batch_axis or not _of_frames(view)):
        return None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    if scores.batch_axis is None and scores.features[at : at + 1] == (1,):  # the only image's batch again
        features = scores.features[:at] + scores.features[at + 1 :]
        scores = ScoreMap(ops.squeeze(ctx.builder, scores.tensor, [1 + at]), features, scores.provenance, at)
    if scores.batch_axis != at or len(scores.features) != 2:
        return ctx.refuse("mixes-batch", "takes the batch for the steps of its sequence")
    states = _states(ctx, [])
    if states is None:
        return ctx.refuse("batch-baked", "begins with states of the native batch", OWN_BATCH)
    builder, grid = ctx.builder, len(scores.grid)
    steps, size = scores.features
    ahead = ops.transpose(builder, scores.tensor, [1, 0, *scores.grid, 2] if at else [0, *scores.grid, 1, 2])
    sizes = ops.dims(builder, ahead, at, at + 1 + grid)
    folded = _with_a_row(ctx, ops.reshape(builder, ahead, [steps, -1, size] if at else [-1, steps, size]), at)
    made = ctx.keep_renamed([folded, *ctx.tensors_from(1)[: _STATES[0] - 1], *states])
    views: list[View] = []
    for position, (name, tensor) in enumerate(zip(ctx.node.output, made, strict=True)):
        if not name:
            views.append(Fixed(""))
            continue
        shape = ctx.native(name).native
        own = at + at * (position == 0)  # (T, directions, N, hidden), or (directions, N, hidden)
        tensor = ops.slice_axis(builder, tensor, own, 0, -1)
        unfolded = ops.reshape(builder, tensor, [*shape[:own], sizes, *shape[own + 1 :]])
        order = [own, *range(own), *range(own + 1 + grid, len(shape) + grid), *range(own + 1, own + 1 + grid)]
        ops.transpose(builder, unfolded, order, name)
        views.append(ScoreMap(name, (*shape[:own], *shape[own + 1 :]), scores.provenance, own))
    ctx.remark("per-window", f"{ctx.op_type} runs once per window, the grid folded into the batch")
    return views


def _with_a_row(ctx: RuleContext, tensor: str, axis: int) -> str:
    """One sequence of zeros behind the others: of an image without a window there are none, at which onnxruntime's
    recurrent layers end the process."""
    spec = ctx.builder.spec(tensor)
    shape = [1 if k == axis else n for k, n in enumerate(spec.native)]
    row = np.zeros(shape, helper.tensor_dtype_to_np_dtype(spec.dtype))
    return ctx.builder.emit("Concat", [tensor, ctx.builder.constant(row, "zeros")], axis=axis)


def _of_frames(view: Window) -> bool:
    """Whether every step has the same places of the window, in the same order: steps are frames, or channels."""
    if len(view.sources) != 1 or view.index.ndim != 2:
        return False
    places = view.index % int(np.prod(view.sources[0].extent))
    return bool((places == places[:1]).all())
