"""MaxUnpool: what a MaxPool left, put back where its maxima were."""

from __future__ import annotations

from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.graph.index import attributes
from onnxfc.graph.sliding import sliding_at
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import on_image_axes
from onnxfc.rules.registry import PLACED, rule
from onnxfc.rules.resampling import laid
from onnxfc.rules.resized_reads import resampled


@rule("MaxUnpool", on=PLACED, attributes=("kernel_shape", "pads", "strides"))
def max_unpool(ctx: RuleContext) -> Outcome:
    """MaxUnpool by the indices of a MaxPool has the size of the map that was pooled, whatever that is.

    The indices count the elements of that map, so that none other means the same place. What its kernel comes to is
    this size only where strides divide it. https://onnx.ai/onnx/operators/onnx__MaxUnpool.html
    """
    pool, view = ctx.state.graph.producers.get(ctx.node.input[1]), ctx.views[0]
    whole = ctx.state.views[pool.input[0]] if pool is not None and pool.op_type == "MaxPool" else None
    if pool is None or not on_image_axes(whole) or not on_image_axes(view) or view.spatial != whole.spatial:
        return ctx.refuse("pool-indices", "takes places of maxima that are not just those of a MaxPool", LEAVE)
    if view.provenance.windows:
        return ctx.refuse("pools-then-convolves", "spreads what a global pool left over several places")
    given, after = ctx.native(pool.input[0]).native, ctx.shape_out()
    if after != given or ctx.shape_in() != ctx.native(pool.output[0]).native:
        why = f"makes a map of {_size(after)} of the places of maxima in one of {_size(given)}"
        return ctx.refuse("pool-indices", why, LEAVE)
    how = sliding_at(attributes(pool), given, ())
    assert how is not None  # as the pool has been kept
    steps = list(zip(how.kernel, how.strides, how.begin, how.end, how.dilations, strict=True))
    finer = {k: laid(view.provenance.fields[k], *steps[axis - 2]) for k, axis in view.where.items()}
    inside = all((k - 1) * d - min(before, behind) < s for k, s, before, behind, d in steps)
    joined = Provenance.join([view.provenance.along(finer), whole.provenance])
    if joined is None:
        return ctx.refuse("grids-differ", "puts back what is of another stride than the maxima were")
    ctx.keep([*ctx.tensors()[:2], ops.dims(ctx.builder, whole.tensor, 0, len(given))])
    return ctx.placed(view, resampled(ctx, joined, inside), view.where)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[2:]))
