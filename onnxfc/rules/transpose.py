"""Transpose: axes, and all that they hold, go where the permutation puts them."""

from __future__ import annotations

from onnxfc.lift import moved_to
from onnxfc.rules.table import PLACED, rule
from onnxfc.rules.windowed import windowed
from onnxfc.site import Outcome, Site


@rule("Transpose", on=PLACED, attributes=("perm",))
def transpose(site: Site) -> Outcome:
    """The same groups in another order. https://onnx.ai/onnx/operators/onnx__Transpose.html"""
    view = site.placed_in()
    perm = list(site.attrs.get("perm") or range(len(view.groups) - 1, -1, -1))
    features = view.trace.windows or len(view.groups) < 2 + len(view.spatial)
    if perm[0] != 0 and view.is_map and features:
        return windowed(site)
    site.keep()
    groups = tuple(view.groups[axis] for axis in perm)
    return [moved_to(site, view, groups)]
