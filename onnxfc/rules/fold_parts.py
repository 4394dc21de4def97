"""Channels of folded maps: picked, cut, laid beside each other; axes of extent 1 that come and go."""

from __future__ import annotations

from dataclasses import replace

from onnxfc.regroup import is_mixed, lengths
from onnxfc.rules.folds import changed, folded_of, moved, only_first, pure
from onnxfc.rules.indexing import picks
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, axes_of, positive
from onnxfc.views import Folded, Trace


@rule("Unsqueeze", "Squeeze", on=Folded, attributes=("axes",))
def unsqueeze(site: Site) -> Outcome | None:
    """Axes of extent 1 come and go."""
    view = folded_of(site)
    before, after = lengths(view.groups), site.shape_out()
    axes = axes_of(site, 1, max(len(before), len(after)))
    if axes is None:
        return None
    groups = list(view.groups)
    if site.op_type == "Squeeze":
        if any(view.groups[axis] for axis in axes):
            return None  # the batch or a place of native extent 1
        groups = [group for axis, group in enumerate(groups) if axis not in axes]
    else:
        for axis in sorted(axes):
            groups.insert(axis, ())
    site.keep()
    return [replace(view, tensor=site.node.output[0], groups=tuple(groups), window=moved(site, view))]


@rule("Split", "Slice", "Gather", on=Folded, attributes=("axes", "axis", "ends", "num_outputs", "split", "starts"))
def part_of_channels(site: Site) -> Outcome | None:
    """Some of the channels."""
    view = folded_of(site)
    before, after = lengths(view.groups), [site.shape_out(position) for position in range(len(site.node.output))]
    if not only_first(site) or is_mixed(view.groups):
        return None
    if site.op_type == "Gather" and site.shape_in(1) == ():
        return _one_channel(site, positive(int(site.attrs.get("axis", 0)), len(before)))
    if any(len(shape) != len(before) for shape in after):
        return None
    touched = {
        axis for shape in after for axis, pair in enumerate(zip(before, shape, strict=True)) if len(set(pair)) > 1
    }
    if len(touched) != 1 or not pure(view.groups[min(touched)]):
        return None
    site.keep()
    return changed(site, min(touched))


def _one_channel(site: Site, axis: int) -> Outcome | None:
    """One channel, whose axis goes."""
    view = folded_of(site)
    if not pure(view.groups[axis]):
        return None
    site.keep()
    groups = view.groups[:axis] + view.groups[axis + 1 :]
    return [replace(view, tensor=site.node.output[0], groups=groups, window=None)]


@rule("GatherND", on=Folded, attributes=("batch_dims",))
def picked_channels(site: Site) -> Outcome | None:
    """Some of the channels, one number each; exporters move their axis to the front for it."""
    if picks(site) is None or not only_first(site) or not pure(folded_of(site).groups[0]):
        return None
    site.keep()
    return changed(site, 0)


@rule("Concat", on=Folded, attributes=("axis",))
def concat(site: Site) -> Outcome | None:
    """Channels side by side."""
    maps = [view for view in site.views if isinstance(view, Folded)]
    axis = positive(int(site.attrs["axis"]), len(site.shape_out()))
    rest = {(*view.groups[:axis], *view.groups[axis + 1 :]) for view in maps}
    trace = Trace.join([view.trace for view in maps])
    if len(maps) != len(site.views) or len(rest) != 1 or trace is None:
        return None
    if not all(pure(view.groups[axis]) for view in maps):
        return None
    site.keep()
    made = changed(site, axis)[0]
    assert isinstance(made, Folded)
    return [replace(made, trace=trace, bounds=frozenset().union(*(view.bounds for view in maps)))]
