"""DeformConv: a kernel that slides, and reads at places that another map says."""

from __future__ import annotations

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, is_map
from onnxfc.rules.convolution import sliding_of
from onnxfc.rules.registry import PLACED, rule

_DEFORMED = ("dilations", "group", "kernel_shape", "offset_group", "pads", "strides")


@rule("DeformConv", on=PLACED, attributes=_DEFORMED)
def deformed(ctx: RuleContext) -> Outcome | None:
    """DeformConv slides as Conv does, each place moved as another map says, so that it may read all of its own.

    https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    data, weight, *more = ctx.views
    maps = [view for view in (data, *more[0:1], *more[2:3]) if view is not None]
    how = sliding_of(ctx)
    if isinstance(how, Refusal):
        return how
    if not isinstance(weight, Fixed) or any(not isinstance(view, Fixed) for view in more[1:2] if view is not None):
        return ctx.refuse("dynamic-weight", "has a weight that depends on the image")
    placed = [view for view in maps if is_map(view) and view.channels_first]
    if len(placed) < len(maps):
        return ctx.refuse("layout", "reads at places of other axes than the image's")
    each = zip(placed[0].fields, how.kernel, how.strides, how.begin, how.dilations, strict=True)
    fields = dict(enumerate(field.through(k, s, p, d) for field, k, s, p, d in each))
    joined = Provenance.join([placed[0].provenance.along(fields), *(view.provenance for view in placed[1:])])
    if joined is None or joined.windows:
        return ctx.refuse("grids-differ", "is moved by a map of another stride")
    ctx.keep()
    return ctx.placed(placed[0], joined.blamed(ctx.blame(Cause.CONTEXT)), placed[0].where)
