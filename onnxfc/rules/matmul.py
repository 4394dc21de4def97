"""Gemm and MatMul on every view: which of them are FC layers, and what the others are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.computed_constants import computed
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import MICROSOFT
from onnxfc.head.conv_weights import Weight, resolve
from onnxfc.head.fc_to_conv import Operands, fully_connected, shaped
from onnxfc.head.meet_grids import all_scores, around_batch, beside_windows, lift_fixed
from onnxfc.head.per_window import per_window
from onnxfc.head.placed_windows import window_of
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, Placed, ScoreMap, View, Window, is_folded
from onnxfc.rules import contraction
from onnxfc.rules.context_sums import even_as_context, even_matmul
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.rules.unsupported import attention, sums_places

_GEMM = ("alpha", "beta", "transA", "transB")


@rule("Gemm", on=FEATURES, attributes=_GEMM)
@rule("Gemm", on=PLACED, attributes=_GEMM)
def gemm(ctx: RuleContext) -> Outcome | None:
    """Flatten, then Gemm over C x h x w, is Conv h x w; Gemm on scores is Conv 1 x 1.

    Y = alpha * A' * B' + beta * C. https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    if any(is_folded(view) for view in ctx.views):
        return _rows_of_places(ctx)
    turned = (bool(ctx.attrs.get("transA", 0)), bool(ctx.attrs.get("transB", 0)))
    plain = float(ctx.attrs.get("alpha", 1.0)) == 1.0 and not ctx.has_input(2)
    if plain and _of_one_image(ctx):
        return _among_features(ctx, turned)
    if ctx.swallowed and len(ctx.shape_in()) == 3 and not turned[0]:
        return _gemm_on_rows(ctx)
    found = _operands(ctx, turned, float(ctx.attrs.get("alpha", 1.0)))
    if isinstance(found, Refusal):
        return found
    beta = float(ctx.attrs.get("beta", 1.0))
    bias = _bias(ctx, found) if ctx.has_input(2) and beta != 0.0 else None
    if ctx.has_input(2) and beta != 0.0 and bias is None:
        return _gemm_add(ctx, found, beta)
    scores = fully_connected(ctx, found, None if bias is None else bias * beta, ctx.node.output[0])
    return scores if isinstance(scores, Refusal) else [scores]


@rule("MatMul", on=PLACED)
def matmul_placed(ctx: RuleContext) -> Outcome | None:
    """MatMul with a constant matrix is Conv 1 x 1 already, and stays: channels, place by place.

    Or what was computed from the image times itself. Times a multiple of the identity it is that multiple.
    """
    multiple = _multiple(ctx)
    if multiple is not None:
        return multiple
    view, folded = ctx.views[0], any(is_folded(other) for other in ctx.views)
    rank, constant = len(ctx.shape_in()), ctx.only_first and len(ctx.shape_in(1)) == 2
    if isinstance(view, Placed) and constant and (rank > 2 or not view.apart):
        return _channels_times(ctx, view, rank - 1)
    made = _times_channels(ctx) or (contraction.matmul(ctx) if folded or rank > 2 else None)
    if made is not None or folded:
        return made
    return attention(ctx) if isinstance(view, Placed) and rank > 2 else matmul(ctx)


def _multiple(ctx: RuleContext) -> Outcome | None:
    """x (c I) is c x, whatever its axes hold; None for any other matrix."""
    at = next((place for place in (0, 1) if isinstance(ctx.views[place], Fixed)), None)
    if at is None or min(len(ctx.shape_in(0)), len(ctx.shape_in(1))) < 2 or ctx.shape_out() != ctx.shape_in(1 - at):
        return None
    factor, tensor = ctx.native(ctx.node.input[at]).factor, ctx.placed_in(1 - at).tensor
    if factor is None or ctx.weights(ctx.node.input[at]) is None:
        return None
    times = ops.scalar(ctx.builder, factor, tensor)
    ctx.builder.emit("Mul", [tensor, times], ctx.node.output[0], instead=ctx.node)
    return ctx.same()


def _channels_times(ctx: RuleContext, view: Placed, axis: int) -> Outcome | None:
    """A 1x1 Conv already: it stays."""
    if pure(view.groups[axis]):
        ctx.keep()
        return ctx.of_channels(view, axis)
    return None if view.is_folded else ctx.refuse("fc-over-space", "mixes the places of a map, only one of its axes")


def _times_channels(ctx: RuleContext) -> Outcome | None:
    """A constant matrix times channels ahead of one axis of places, as a filter bank stands before a spectrogram."""
    bank, view = ctx.views[:2]
    if not isinstance(bank, Fixed) or not isinstance(view, Placed) or len(ctx.shape_in(0)) != 2:
        return None
    axis = len(view.groups) - 2
    if axis < 1 or not pure(view.groups[axis]):
        return None
    ctx.keep()
    return ctx.of_channels(view, axis)


def _rows_of_places(ctx: RuleContext) -> Outcome | None:
    """Channels times a constant matrix, with places and images in the rows."""
    view = ctx.views[0]
    if not isinstance(view, Placed) or not ctx.only_first or ctx.attrs.get("transA", 0):
        return None
    bias = ctx.shape_in(2) if ctx.has_input(2) else ()
    if not pure(view.groups[1]) or (len(bias) == 2 and bias[0] != 1):
        return None
    ctx.keep()
    return ctx.of_channels(view, 1)


@rule("MatMul", on=FEATURES)
def matmul(ctx: RuleContext) -> Outcome:
    """Flatten, then MatMul over C x h x w, is Conv h x w; MatMul on scores is Conv 1 x 1.

    https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    moving = [place for place, other in enumerate(ctx.views) if not isinstance(other, Fixed)]
    if len(moving) == 2 and _of_one_image(ctx):
        return _among_features(ctx)
    if len(moving) == 2 and len(ctx.shape_in()) > 2:
        return _pairwise(ctx)
    if isinstance(ctx.views[moving[0]], Window | ScoreMap) and len(ctx.shape_in(moving[0])) > 2:
        return _on_rows(ctx, moving[0])
    found = _operands(ctx, (False, False), 1.0)
    if isinstance(found, Refusal):
        return found
    return shaped(ctx, found, ctx.shape_out()[1:] if found.batch_axis == 0 else None)


def _on_rows(ctx: RuleContext, at: int) -> Outcome:
    """Matrices of features times a constant one, once per window."""
    view, other = ctx.views[at], 1 - at
    rank, shape = len(ctx.shape_in(at)), ctx.shape_in(other)
    if len(shape) > rank or (len(shape) == rank and (shape[0] != 1 or computed(ctx, ctx.node.input[other]) is None)):
        return ctx.refuse("mixes-batch", "multiplies the features of each image by a matrix of its own")
    assert isinstance(view, Window | ScoreMap)
    even = even_matmul(ctx, at)
    if ctx.role == "context":
        if even is None:
            return ctx.refuse("fc-over-space", "is an FC layer over the places of the native size", LEAVE)
        return even_as_context(ctx, even)
    if isinstance(view, ScoreMap) and view.batch_axis and at == 0 and len(shape) == 2:
        outcome = _on_steps(ctx, view, view.batch_axis)
    else:
        outcome = per_window(ctx, view, at)
    if isinstance(outcome, list):
        axis = -1 if at == 0 else -2
        ctx.replaced(f"MatMul {ctx.shape_in(at)[axis]}→{ctx.shape_out()[axis]}", "MatMul once per window")
    return outcome


def _on_steps(ctx: RuleContext, view: ScoreMap, batch_axis: int) -> Outcome:
    """Features times a matrix, where the batch stands behind others of their axes: as steps (T, N, F) have it."""
    last = len(view.features)
    if batch_axis == last:
        return ctx.refuse("mixes-batch", "takes the batch for features")
    ahead = ops.transpose(ctx.builder, view.tensor, [*range(last), *view.grid, last])
    [made] = ctx.keep_renamed([ahead, *ctx.tensors_from(1)])
    order = [*range(last), last + len(view.grid), *(axis - 1 for axis in view.grid)]
    ops.transpose(ctx.builder, made, order, ctx.node.output[0])
    return [around_batch(ctx, view.provenance, batch_axis)]


def _gemm_on_rows(ctx: RuleContext) -> Outcome:
    """Gemm over rows that are features of one image, as those of learned queries are, once per window."""
    bias = ctx.shape_in(2) if ctx.has_input(2) else ()
    if not ctx.only_first or (len(bias) == 2 and bias[0] != 1) or ctx.role == "context" or ctx.views[0] is None:
        return ctx.refuse("mixes-batch", "is not an FC layer over the features of each row alone")
    outcome = per_window(ctx, ctx.views[0], rows=1)
    if isinstance(outcome, list):
        ctx.replaced(f"Gemm {ctx.shape_in()[-1]}→{ctx.shape_out()[-1]}", "Gemm once per window")
    return outcome


def _of_one_image(ctx: RuleContext) -> bool:
    """Whether both matrices are features of the only image, or frames of it."""
    features = all(isinstance(view, Window | ScoreMap) for view in ctx.views[:2])
    return features and ctx.may_swallow and all(len(ctx.native(name).native) == 2 for name in ctx.node.input[:2])


def _among_features(ctx: RuleContext, turned: tuple[bool, bool] = (False, False)) -> Outcome:
    """Matrices that are features of one image, each: frames, which are rows of the batch, are features then."""
    if any(getattr(view, "batch_axis", None) is not None for view in ctx.views[:2]):
        return ctx.refuse("mixes-batch", "relates the images of the batch to each other", LEAVE)
    return _pairwise(ctx, turned)


def _pairwise(ctx: RuleContext, turned: tuple[bool, bool] = (False, False)) -> Outcome:
    """Matrices of features times each other, cell by cell: as an Einsum, to which the grid can be appended. ``turned``:
    those of which the rows are the columns."""
    scores = all_scores(ctx, ctx.views)
    if isinstance(scores, Refusal):
        return scores
    provenance = Provenance.join([view.provenance for view in scores])
    shapes = [ctx.shape_in(0), ctx.shape_in(1)]
    alike = shapes[0][:-2] == shapes[1][:-2] and not any(view.batch_axis for view in scores)
    if len(scores) < 2 or provenance is None or not alike:
        return attention(ctx)
    (rows, inner), (_, columns) = (shape[-2:][:: -1 if turn else 1] for shape, turn in zip(shapes, turned, strict=True))
    if provenance.places and not sums_places(ctx, provenance, (inner,), (rows, columns)):
        return attention(ctx)
    rank = len(shapes[0])
    if ctx.opset < 12:  # there is no Einsum yet
        return attention(ctx) if any(turned) else _multiplied(ctx, scores, provenance)
    stack, grid = "abcdefgh"[: rank - 2], "uvw"[: len(scores[0].grid)]
    one, two = ("yx" if turned[0] else "xy"), ("zy" if turned[1] else "yz")
    equation = f"{stack}{one}{grid},{stack}{two}{grid}->{stack}xz{grid}"
    tensors = [view.tensor for view in scores]
    ctx.builder.emit("Einsum", tensors, ctx.node.output[0], instead=ctx.node, equation=equation)
    return ctx.score_maps(replace(provenance, places=False))


def _multiplied(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    """Matrices of each cell times each other, the grid among the axes that a MatMul leaves alone."""
    grid, rank = scores[0].grid, len(ctx.shape_out())
    last = [*range(rank - 2, rank)]
    ahead = [ops.transpose(ctx.builder, v.tensor, [*range(rank - 2), *v.grid, *last]) for v in scores]
    made = ctx.builder.emit("MatMul", ahead, instead=ctx.node)
    behind = [*range(rank - 2), *(axis + len(grid) for axis in last), *(axis - 2 for axis in grid)]
    ops.transpose(ctx.builder, made, behind, ctx.node.output[0])
    return ctx.score_maps(replace(provenance, places=False))


def _operands(ctx: RuleContext, turned: tuple[bool, bool], alpha: float) -> Operands | Refusal:
    data = [position for position in (0, 1) if not isinstance(ctx.views[position], Fixed)]
    if len(data) != 1:
        return attention(ctx)
    position = data[0]
    other = 1 - position
    view = _features(ctx, ctx.views[position])
    if isinstance(view, Refusal):
        return view
    shape = ctx.shape_in(other)
    batch_first = (not view.batch_axis) != turned[position]
    if len(shape) not in {1, 2} or len(shape_of(view)) != 1 or batch_first != (position == 0):
        return ctx.refuse("mixes-batch", "is not an FC layer over the features of each image alone")
    vector, out_first = len(shape) == 1, turned[1] if other == 1 else not turned[0]
    weight = Weight(
        ctx.node.input[other],
        order=(0,) if vector else (0, 1) if out_first else (1, 0),
        inputs=shape_of(view)[0],
        outputs=1 if vector else ctx.shape_out()[1 - position],
        factor=alpha,
    )
    return Operands(view, resolve(ctx, weight), batch_axis=0 if vector else position)


def _features(ctx: RuleContext, view: View | None) -> Window | ScoreMap | Refusal:
    if isinstance(view, Placed):
        return window_of(ctx, view) if len(view.groups) == 2 else _not_flat(ctx)
    if isinstance(view, Window | ScoreMap):
        return view
    return beside_windows(ctx) or _not_flat(ctx)


def _not_flat(ctx: RuleContext) -> Refusal:
    return ctx.refuse("fc-over-space", "reads a map that was not flattened")


def shape_of(view: Window | ScoreMap) -> tuple[int, ...]:
    return view.index.shape if isinstance(view, Window) else view.features


def _bias(ctx: RuleContext, found: Operands) -> np.ndarray | None:
    """Gemm's C as (M,) or scalar; None where it differs between rows or is not a constant."""
    value = ctx.weights(ctx.node.input[2])
    if value is None or not isinstance(ctx.views[2], Fixed):
        return None
    shape = (1,) * (2 - value.ndim) + value.shape
    if shape[found.batch_axis] != 1:
        return None
    return value.reshape(-1)


def _gemm_add(ctx: RuleContext, found: Operands, beta: float) -> Outcome:
    """A C that is not one vector of constants: an Add behind the Conv."""
    refusal = beside_windows(ctx)
    if refusal is not None:
        return refusal
    if found.batch_axis != 0 or isinstance(ctx.views[2], Placed):
        return ctx.refuse("dynamic-bias", "adds something that is not one value per output")
    scores = fully_connected(ctx, found, None, ctx.builder.fresh(f"{ctx.node.output[0]}_product"))
    if isinstance(scores, Refusal):
        return scores
    other = ctx.views[2]
    if isinstance(other, Fixed):
        term = lift_fixed(ctx, 2, len(scores.grid))
    else:
        lifted = to_scores(ctx, other) if other is not None else None
        if not isinstance(lifted, ScoreMap):
            return ctx.refuse("dynamic-bias", "adds something that is not one value per output")
        term = lifted.tensor
    if beta != 1.0:
        term = ctx.builder.emit("Mul", [term, ops.scalar(ctx.builder, beta, term)])
    out = ctx.builder.emit("Add", [scores.tensor, term], ctx.node.output[0])
    return [replace(scores, tensor=out)]


_PARAMETERS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}


_FUSED = (*_GEMM, "activation", "activation_alpha", "activation_beta", "activation_gamma")


@rule("FusedGemm", on=FEATURES, domain=MICROSOFT, attributes=_FUSED)
@rule("FusedGemm", on=PLACED, domain=MICROSOFT, attributes=_FUSED)
def fused_gemm(ctx: RuleContext) -> Outcome | None:
    """FusedGemm is the Conv of its Gemm, then its activation."""
    activation = str(ctx.attrs.get("activation", ""))
    if activation not in _PARAMETERS:
        return ctx.refuse("unknown-attribute", f"has the activation {activation or '(none)'}, which is not understood")
    outcome = gemm(ctx)
    if not isinstance(outcome, list) or not isinstance(outcome[0], ScoreMap):
        return outcome
    scores = outcome[0]
    values: dict[str, Any] = {name: ctx.attrs.get(f"activation_{name}") for name in _PARAMETERS[activation]}
    return [replace(scores, tensor=ctx.builder.emit(activation, [scores.tensor], **values))]
