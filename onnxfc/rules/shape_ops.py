"""Shape and Size: what a tensor's dims are, in the original's sense."""

from __future__ import annotations

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.errors import Refusal
from onnxfc.layout.views import Fixed, ScoreMap, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule


@rule("Shape", "Size", on=PLACED, attributes=("start", "end"))
def shape_of_placed(site: Site) -> Outcome:
    """The map's dims now: computed sizes follow the image."""
    site.keep()
    return site.fixed()


@rule("Shape", on=FEATURES, attributes=("start", "end"))
def shape_of_features(site: Site) -> Outcome:
    """(N, F1, ..., Fk) without the grid."""
    whole = _whole(site)
    if isinstance(whole, Refusal):
        return whole
    rank = len(site.shape_in())
    start, end, _ = slice(site.attrs.get("start", 0), site.attrs.get("end", rank)).indices(rank)
    return [Fixed(ops.slice_axis(site.draft, whole, 0, start, end))]


@rule("Size", on=FEATURES)
def size_of_features(site: Site) -> Outcome:
    """N * F1 * ... * Fk without the grid."""
    whole = _whole(site)
    if isinstance(whole, Refusal):
        return whole
    return [Fixed(ops.reduce(site.draft, "ReduceProd", whole, [0], keepdims=False))]


def _whole(site: Site) -> str | Refusal:
    """(N, F1, ..., Fk) as a tensor."""
    view = site.views[0]
    assert isinstance(view, Window | ScoreMap)
    if view.batch_axis:
        return site.refuse("mixes-batch", "asks for the shape of transposed features")
    tensor, features = (
        (view.sources[0].tensor, view.index.shape) if isinstance(view, Window) else (view.tensor, view.features)
    )
    given = [] if view.batch_axis is None else [ops.dims(site.draft, tensor, 0, 1)]
    return ops.concat(site.draft, [*given, site.draft.constant(list(features), "features")])
