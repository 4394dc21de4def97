"""DynamicQuantizeLinear: integers by a scale and a zero point that are taken from all that it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.head.windows import to_scores
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, ScoreMap, View, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule

KIND = "DynamicQuantizeLinear"


@rule(KIND, on=PLACED)
def dynamic_placed(ctx: RuleContext) -> Outcome:
    """The integers lie as the map does. Scale and zero point are of the whole image: context.

    https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    ctx.keep()
    view = ctx.placed_in()
    integers = view.output(ctx.node.output[0], provenance=view.provenance.blamed(ctx.blame(Cause.CONTEXT)))
    return [integers, *_figures(ctx, integers.provenance)]


@rule(KIND, on=FEATURES)
def dynamic_features(ctx: RuleContext) -> Outcome:
    """Of windows, all that they are cut out of is quantised as one; of scores, those of all cells."""
    view = ctx.views[0]
    if isinstance(view, Window) and _whole(view):
        provenance = view.provenance.blamed(ctx.blame(Cause.CONTEXT))
        source = view.sources[0]
        ctx.keep([source.tensor])
        moved = replace(source, tensor=ctx.node.output[0])
        return [replace(view, sources=(moved,), provenance=provenance, trunk=None), *_figures(ctx, provenance)]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    ctx.keep([scores.tensor])
    provenance = scores.provenance.blamed(ctx.blame(Cause.CONTEXT))
    return [replace(scores, tensor=ctx.node.output[0], provenance=provenance), *_figures(ctx, provenance)]


def _whole(view: Window) -> bool:
    """Whether it is all of one map, in some order."""
    index = view.index.ravel()
    return view.plain and index.size == view.sources[0].features == len(np.unique(index))


def _figures(ctx: RuleContext, provenance: Provenance) -> list[View]:
    whole = replace(provenance, windows=frozenset(), sums_to_one=frozenset())
    return [Context(name, whole) for name in ctx.node.output[1:]]
