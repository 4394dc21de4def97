"""STFT: a window that slides along a signal, and the frequencies in each place of it."""

from __future__ import annotations

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.layout.axes import pure
from onnxfc.layout.views import Fixed, Placed
from onnxfc.rules.registry import PLACED, rule


@rule("STFT", on=PLACED, attributes=("onesided",))
def stft(ctx: RuleContext) -> Outcome:
    """STFT of (N, L, 1) slides as Conv does: (N, frames, frequencies, 2), with (L - frame) // step + 1 frames.

    https://onnx.ai/onnx/operators/onnx__STFT.html
    """
    view, step = ctx.views[0], ctx.constant(1)
    if any(not isinstance(other, Fixed) for other in ctx.views[1:] if other is not None) or step is None:
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the signal", LEAVE)
    if not isinstance(view, Placed) or not view.apart or view.spatial != (1,) or not pure(view.groups[2]):
        return ctx.refuse("layout", "takes frames along an axis that is not the signal's")
    if view.provenance.windows:
        return ctx.refuse("pools-then-convolves", "slides over what a global pool left")
    frame = ctx.shape_in(2)[0] if ctx.has_input(2) else ctx.constant(3)
    if frame is None or ctx.follows_size(1) or ctx.follows_size(3):
        return ctx.refuse("size-locked", "takes frames whose length or distance follows the signal's", LEAVE)
    [(place, field)] = zip(view.where, view.fields, strict=True)
    provenance = view.provenance.along({place: field.through(int(frame), int(step))})
    ctx.keep()
    return ctx.placed(view, provenance, view.where)
