"""Col2Im: blocks of places in a row, laid out to a map."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import length_of, provenance_of
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.index import inputs_of
from onnxfc.layout.axes import channels, kinds, pure
from onnxfc.layout.axis_map import Field
from onnxfc.layout.views import Placed, is_map, on_image_axes
from onnxfc.rules.registry import PLACED, rule
from onnxfc.rules.resampling import laid
from onnxfc.rules.resized_reads import resampled


@rule("Col2Im", on=PLACED, attributes=("dilations", "pads", "strides"))
def col2im(ctx: RuleContext) -> Outcome:
    """Col2Im of (N, C * block, H * W) is ConvTranspose of (N, C * block, H, W), each weight 1 or 0.

    Blocks are summed where they lie on each other. The size is computed, or that of the map that was cut into these
    blocks; else as much is left over at its end as natively.

    https://onnx.ai/onnx/operators/onnx__Col2Im.html
    """
    view, size, block = ctx.views[0], ctx.constant(1), ctx.constant(2)
    if not isinstance(view, Placed) or size is None or block is None:
        return _locked(ctx)
    rank = len(block)
    strides, dilations = (list(ctx.attrs.get(name) or (1,) * rank) for name in ("strides", "dilations"))
    pads = list(ctx.attrs.get("pads") or (0,) * 2 * rank)
    steps = list(zip([*map(int, block)], strides, pads[:rank], pads[rank:], dilations, strict=True))
    if not _in_rows(view, [_blocks(int(length), *step) for length, step in zip(size, steps, strict=True)]):
        return _locked(ctx)
    where = {atom.place: k for k, atom in enumerate(view.groups[-1]) if atom.kind == "space"}
    rows = ((atom,) for atom in view.groups[-1])
    groups = (view.groups[0], channels(ctx.shape_out()[1] * math.prod(block)), *rows)
    outer = provenance_of(ctx, view.provenance, groups)
    fields = [laid(outer.fields[place], *steps[k]) for place, k in where.items()]
    if not ctx.follows_size(1):
        sizes = _size(ctx, view, size.tolist(), strides, _cut_up(ctx, size.tolist(), fields))
        ctx.keep([view.tensor, sizes, *ctx.tensors()[2:]])
    else:
        ctx.keep()
    provenance = resampled(ctx, outer.along(dict(enumerate(fields))))
    return [ctx.map_of(ctx.node.output[0], provenance, [2 + k for k in where.values()])]


def _locked(ctx: RuleContext) -> Refusal:
    return ctx.refuse("size-locked", "lays blocks out to an image of the native size", LEAVE)


def _blocks(length: int, block: int, stride: int, before: int, behind: int, dilation: int) -> int:
    """How many blocks lie along an axis."""
    return (length + before + behind - dilation * (block - 1) - 1) // stride + 1


def _size(ctx: RuleContext, view: Placed, size: list[int], strides: list[int], like: Placed | None) -> str:
    """How large the result is: as another map, or by the number of its blocks."""
    builder, rows = ctx.builder, view.groups[-1]
    if like is not None:
        return ops.dims(builder, like.tensor, 2, 2 + len(rows))
    lengths = list[int | str]()
    for atom, stride, length in zip(rows, strides, size, strict=True):
        if atom.kind == "channel":
            lengths.append(length)
            continue
        grown = builder.emit("Mul", [length_of(builder, view, (atom,)), builder.constant([stride], "stride")])
        left = builder.constant([length - stride * atom.length], "left")
        lengths.append(builder.emit("Add", [grown, left]))
    return ops.numbers(builder, lengths)


def _in_rows(view: Placed, blocks: Sequence[int]) -> bool:
    """Whether it is (N, C, H * W), so many ``blocks`` along each axis, of which some may stay."""
    first, middle, rows = view.groups
    whole = [atom.place for atom in rows if atom.kind == "space"] == list(range(len(view.provenance.fields)))
    known = all(atom.kind in ("space", "channel") for atom in rows) and [atom.length for atom in rows] == [*blocks]
    return whole and known and kinds(first) == ["batch"] and pure(middle)


def _cut_up(ctx: RuleContext, size: Sequence[int], fields: Sequence[Field]) -> Placed | None:
    """The nearest map ahead that has the native size and stride of the result."""
    names = [ctx.node.input[0]]
    for name in names:
        view, node = ctx.state.views.get(name), ctx.state.graph.producers.get(name)
        strides = [field.stride for field in fields]
        alike = is_map(view) and [field.stride for field in view.fields] == strides
        if alike and on_image_axes(view) and [*ctx.native(name).native[2:]] == [*size]:
            return view
        names.extend(item for item in (inputs_of(node) if node else ()) if item not in names)
    return None
