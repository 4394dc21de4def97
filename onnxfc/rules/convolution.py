"""Operators whose kernel slides: Conv and the pools. They stay as they are; what changes is what an element reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxfc.builder.half_computed import natively
from onnxfc.builder.rule_context import LEAVE, OWN_BATCH, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.index import dependent
from onnxfc.graph.op_kinds import MICROSOFT, POOLS, weight_position
from onnxfc.graph.sliding import LEFT_BEHIND, Sliding, sliding_at
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.layout.axes import channels, holds_images, pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed
from onnxfc.rules.broadcast import with_context
from onnxfc.rules.context_sums import strip
from onnxfc.rules.fixed_parts import told_pools
from onnxfc.rules.pooling import global_pool, partial_pool, within_tiles
from onnxfc.rules.registry import PLACED, rule
from onnxfc.rules.written_pads import told_pads
from onnxfc.shapes.spec import Shape

WINDOWED = (*("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "p", "pads"),)

_FARTHEST = 1 << 13
"""Places that a window moves on by, at most: no network does more, and a claim tells no longer period."""
_CUT = "has a stride so much larger than its kernel that SAME cuts the border off"


@rule("FusedConv", on=PLACED, domain=MICROSOFT, attributes=(*WINDOWED, "strides", "activation", "activation_params"))
def fused_conv(ctx: RuleContext) -> Outcome | None:
    """FusedConv is Conv, then its activation; one with a third summand is refused."""
    if ctx.has_input(3):
        return ctx.refuse("unsupported-operator", "adds another map", "export without onnxruntime's optimisation")
    return sliding(ctx)


@rule("QLinearConv", on=PLACED, attributes=(*WINDOWED, "strides"))
def qlinear_conv(ctx: RuleContext) -> Outcome | None:
    """QLinearConv slides as Conv does: scales and zero points are the same at every place."""
    return sliding(ctx)


@rule("Conv", "MaxPool", "AveragePool", "LpPool", on=PLACED, attributes=(*WINDOWED, "strides", "storage_order"))
def sliding(ctx: RuleContext) -> Outcome | None:
    """Conv of Conv slides as one: starts add up, strides multiply. auto_pad is frozen to the pads of the native size.

    Over axes of places that were laid together, or of strips that were joined, only one of a single element goes.
    https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    view = ctx.views[0]
    if not isinstance(view, Placed):
        return _weight_of_image(ctx)
    if not view.apart:
        return _over_joined(ctx, view) if view.is_strip else _pointwise(ctx, view)
    wrong = _layout(ctx, view) or _of_native_kernel(ctx)
    if wrong is not None:
        return wrong
    how = sliding_of(ctx)
    if isinstance(how, Refusal):
        return how
    return _too_long(ctx, view, how) or _pooled(ctx, view, how) or _slid(ctx, view, how)


def _of_native_kernel(ctx: RuleContext) -> Refusal | None:
    """A kernel that is computed as large as the map is the native one in each window, and no sliding one else."""
    kernel = natively(ctx, 1) if ctx.op_type == "Conv" else None
    if kernel is None:
        return None
    if not ctx.state.of_windows:
        return ctx.refuse("size-locked", "has a kernel that is as large as the image is", "use --global-pool window")
    ctx.views = (ctx.views[0], Fixed(ctx.builder.constant(kernel, "native")), *ctx.views[2:])
    return None


def _pooled(ctx: RuleContext, view: Placed, how: Sliding) -> Outcome | None:
    """A pool whose one window covers the map, or one of its axes; None where it is none."""
    along = ctx.covers
    if along and view.is_map and any(k > 1 for axis, k in enumerate(how.kernel, 2) if axis not in view.spatial):
        return ctx.refuse("partial-pool", "pools all of an axis of the image that is free, and parts of one that stays")
    if view.is_map and len(along) == len(view.spatial):
        return global_pool(ctx, view, ctx.op_type.removesuffix("Pool"), keepdims=True)
    if along and (view.is_strip or ctx.role == "context" or ctx.name in ctx.state.roles.meant):
        return strip(ctx, view, along, keepdims=True)
    if along and ctx.state.global_pool == "window":
        return partial_pool(ctx, view, along, keepdims=True)
    return None


def _too_long(ctx: RuleContext, view: Placed, how: Sliding) -> Refusal | None:
    """A kernel that does not fit into the padded map; onnxruntime makes one element of that nonetheless."""
    own = how.on([axis - 2 for axis in view.spatial])
    sizes = zip(own.reach, view.extent, own.begin, own.end, own.strides, strict=True)
    ceil = ctx.attrs.get("ceil_mode", 0)  # with which a part of a window does
    if all(reach <= size + before + after + (step - 1) * ceil for reach, size, before, after, step in sizes):
        return None
    return ctx.refuse("size-locked", "has a kernel that is longer than the padded map of the native size")


def _slid(ctx: RuleContext, view: Placed, how: Sliding) -> Outcome:
    own = how.on([axis - 2 for axis in view.spatial])
    if view.provenance.windows and (own.padded or set(own.kernel) != {1} or set(own.strides) != {1}):
        return ctx.refuse("pools-then-convolves", "slides over what a global pool left")
    pool = ctx.op_type in POOLS  # of which onnxruntime takes no padding below 0
    cut = how.frozen and how.left_out > (0 if pool else LEFT_BEHIND)
    if ctx.state.undivided and cut and not (pool and how.alike):
        return ctx.refuse("same-padding", f"{_CUT} at other sizes", "use --global-pool window")
    provenance = with_context(ctx, _through(ctx, view, own))
    changes = {} if ctx.state.undivided and not cut else _frozen(how)
    if ctx.attrs.get("ceil_mode", 0) and not _partial(own, view.extent) and not ctx.state.own_rounding:
        ends = _ends(ctx, view, how)
        if ends != list(how.end) and ctx.attrs.get("count_include_pad", 0):
            return ctx.refuse("partial-pool", "counts a window that reaches beyond an axis of the image that stays")
        changes["ceil_mode"] = 0  # it does nothing at the native size, and must not at others
        changes |= {"pads": [*how.begin, *ends]} if ends != list(how.end) else {}
    ctx.keep(**changes)
    told_pads(ctx, view, (0, 0, *how.begin), (0, 0, *how.end))
    told_pools(ctx, view, own)
    return ctx.placed(view, provenance, view.where)


def _ends(ctx: RuleContext, view: Placed, how: Sliding) -> list[int]:
    """Padding with which a pool that rounds down has as many windows on axes that stay as it had when it rounded up."""
    ends = list(how.end)
    for axis, (size, made) in enumerate(zip(ctx.shape_in()[2:], ctx.shape_out()[2:], strict=True)):
        if axis + 2 not in view.spatial:
            last = (made - 1) * how.strides[axis] + (how.kernel[axis] - 1) * how.dilations[axis] + 1
            ends[axis] = max(ends[axis], last - size - how.begin[axis])
    return ends


def _over_joined(ctx: RuleContext, view: Placed) -> Outcome:
    """A kernel slides over strips that were joined, across their seams too."""
    how = sliding_of(ctx)
    if isinstance(how, Refusal):
        return how
    if not ctx.only_first or not holds_images(view.groups[0]) or not pure(view.groups[1]):
        return pooled_in_part(ctx)
    ctx.keep(**_frozen(how))
    made = ctx.of_channels(view, 1, view.provenance.blamed(*([ctx.blame(Cause.PADDING)] * how.padded)))
    return [_as_long_now(ctx, item) for item in made if isinstance(item, Placed)]


def _as_long_now(ctx: RuleContext, view: Placed) -> Placed:
    """With the lengths of the output, where a kernel went over axes."""
    pairs = zip(view.groups[1:], ctx.shape_out()[1:], strict=True)
    groups = [channels(n) if pure(group) else (replace(group[0], length=n),) for group, n in pairs]
    return replace(view, groups=(view.groups[0], *groups))


def _frozen(how: Sliding) -> dict[str, Any]:
    """Attributes instead of auto_pad."""
    return {"auto_pad": None, "pads": [*how.begin, *how.end]} if how.frozen else {}


def _pointwise(ctx: RuleContext, view: Placed) -> Outcome | None:
    """A Conv of one element over (N, C, H * W)."""
    alone = holds_images(view.groups[0]) and pure(view.groups[1])
    kernel = _weight_shape(ctx)[2:] or ctx.attrs.get("kernel_shape", ())
    idle = set(kernel) == {1} and not any(ctx.attrs.get("pads") or ()) and set(ctx.attrs.get("strides") or (1,)) == {1}
    if not (ctx.only_first and alone and idle):
        return pooled_in_part(ctx) if view.is_strip else within_tiles(ctx, view)
    ctx.keep()
    return ctx.of_channels(view, 1)


def _weight_shape(ctx: RuleContext) -> Shape:
    """Empty for a pool."""
    at = weight_position(ctx.op_type)
    return ctx.shape_in(at) if ctx.has_input(at) else ()


def _kernel_of_image(ctx: RuleContext) -> bool:
    """Whether its weight is a figure of the whole image: where that is alone in the batch it slides as any."""
    return ctx.op_type == "Conv" and all(view is None or isinstance(view, Fixed | Context) for view in ctx.views[1:])


def _weight_of_image(ctx: RuleContext) -> Refusal:
    if ctx.free_batch and _kernel_of_image(ctx):
        return ctx.refuse("batch-baked", "has a weight that is made of one image", OWN_BATCH)
    graph = ctx.state.graph
    images = [info.name for info in graph.inputs if isinstance(ctx.state.views[info.name], Placed)]
    made = {name: dependent(graph.live, [name]).intersection(ctx.node.input) for name in images}
    alone = [name for name in images if made[name] == {ctx.node.input[0]}]
    others = [name for name in images if made[name] and name not in alone]
    if not alone or any(ctx.node.input[0] in made[name] for name in others):
        return ctx.refuse("dynamic-weight", "has a weight that is made of the image itself", LEAVE)
    why = f"has a weight that is made of {' and '.join(others)}"
    return ctx.refuse("dynamic-weight", why, "let that stay as it is: " + " ".join(f"--input {name}" for name in alone))


def _layout(ctx: RuleContext, view: Placed) -> Refusal | None:
    if min(view.spatial) < 2 and ctx.op_type not in POOLS:  # a pool leaves axis 1 as it is, whatever that is
        return ctx.refuse("layout", "slides over axes that are not the image's")
    if not ctx.only_first and not (ctx.state.single and _kernel_of_image(ctx)):
        return _weight_of_image(ctx)
    if ctx.output_used(1) and not _is_unpooled(ctx):
        readers = sorted({node.op_type for node in ctx.state.graph.readers.get(ctx.node.output[1], ())} - {"MaxUnpool"})
        told = f"{' and '.join(readers)}, which reckons with them" if readers else "what does not put them back so"
        return ctx.refuse("pool-indices", f"gives the places of its maxima, counted over the whole map, to {told}")
    return None


def _is_unpooled(ctx: RuleContext) -> bool:
    """Whether the places of its maxima, counted over all of the map, go where they mean the same at every size."""
    graph, name = ctx.state.graph, ctx.node.output[1]
    readers = graph.readers.get(name, ())
    plain = not ctx.covers and not ctx.attrs.get("storage_order", 0) and name not in graph.outputs
    return plain and all(
        node.op_type == "MaxUnpool" and name not in (node.input[0], *node.input[2:]) for node in readers
    )


def sliding_of(ctx: RuleContext) -> Sliding | Refusal:
    """What the node's attributes say, at the native size."""
    found = sliding_at(ctx.attrs, ctx.shape_in(), _weight_shape(ctx))
    if found is None:
        return ctx.refuse("same-padding", _CUT)
    if {len(part) for part in (found.kernel, found.strides, found.dilations, found.begin, found.end)} != {
        len(ctx.shape_in()) - 2
    }:  # of Conv the shape inference of onnx has told
        return ctx.refuse("unsupported-operator", "has attributes for another number of axes", "export it anew")
    if max(found.strides) > _FARTHEST:
        return ctx.refuse("unsupported-operator", f"moves on by {max(found.strides)} places at once", "export it anew")
    return found


def _through(ctx: RuleContext, view: Placed, how: Sliding) -> Provenance:
    steps = zip(view.where, view.fields, how.kernel, how.strides, how.begin, how.dilations, strict=True)
    fields = {place: field.through(k, s, p, d) for place, field, k, s, p, d in steps}
    blames = [ctx.blame(Cause.PADDING)] if how.padded else []
    rounds = ctx.attrs.get("ceil_mode", 0) and set(how.strides) != {1}
    if rounds and (ctx.state.own_rounding or _partial(how, view.extent)):
        blames.append(ctx.blame(Cause.PARTIAL_WINDOW))
    provenance = replace(view.provenance.along(fields).blamed(*blames), places=False)
    return provenance if set(how.kernel) == {1} else replace(provenance, sums_to_one=frozenset())


def _partial(how: Sliding, extent: tuple[int, ...]) -> bool:
    """Whether ceil_mode adds a window that reaches beyond the native map."""
    return any(
        (size + a + b - (k - 1) * d - 1) % s != 0
        for size, k, s, d, a, b in zip(extent, how.kernel, how.strides, how.dilations, how.begin, how.end, strict=True)
    )
