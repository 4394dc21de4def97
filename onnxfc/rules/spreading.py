"""A vector of the whole image that is spread over the places of the native size: by Expand, Resize, Tile, or a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxfc import emit
from onnxfc.axes import lengths
from onnxfc.lift import uniform
from onnxfc.op_kinds import BROADCAST, UNARY
from onnxfc.rules.sisters import images, sisters
from onnxfc.site import LEAVE, Outcome, Site, tensor_of
from onnxfc.views import Context, Fixed, Placed, Trace, is_map


def spreads(site: Site) -> bool:
    """Whether the node does that: one value of each channel for all places, or a sum (product ...) with constants.

    Or it spreads anything over what all its readers would broadcast it against.
    """
    if any(site.native(name).shapes is None for name in (*filter(None, site.node.input), site.node.output[0])):
        return False
    rank, after = 2 + site.state.rank, site.shape_out()
    context = _context(site)
    if site.op_type in {"Expand", "Resize", "Tile", "Upsample"}:
        same = len(context) == 1 and len(site.shape_in()) == rank and site.shape_in()[:2] == after[:2]
    else:
        same = site.op_type in BROADCAST and all(isinstance(view, Context | Fixed) for view in site.views)
    small = all(set(site.draft.spec(view.tensor).native[2:]) == {1} for view in context)
    return (same and small and len(after) == rank and set(after[2:]) != {1}) or _met_at_once(site)


def _met_at_once(site: Site) -> bool:
    """Whether all that read the node broadcast it against something of its output's shape."""
    name, graph = site.node.output[0], site.state.graph
    if site.op_type != "Expand" or name in graph.outputs:
        return False
    readers = graph.readers.get(name, [])
    others = [[other for other in node.input if other and other != name] for node in readers]
    made = {item: graph.producers[item].op_type for items in others for item in items if item in graph.producers}
    return all(
        node.op_type in BROADCAST
        and any(site.native(item).shapes == site.native(name).shapes and made.get(item) != "Expand" for item in items)
        for node, items in zip(readers, others, strict=True)
    )


def _context(site: Site) -> list[Context]:
    """What is spread: sizes that are read off it do not count."""
    views = site.views if site.op_type in BROADCAST else site.views[:1]
    return [view for view in views if isinstance(view, Context)]


def spread(site: Site) -> Outcome:
    """Left to broadcasting where nothing else reads it; else spread over the places of a map of that size."""
    context = _context(site)
    trace = Trace.join([replace(view.trace, fields=context[0].trace.fields) for view in context])
    assert trace is not None
    alone, name = _broadcast(site, site.node.output[0]), site.node.output[0]
    tensor = context[0].tensor
    if site.op_type in BROADCAST:
        inputs = [_one_place(site, position) for position in range(len(site.views))]
        if any(item is None for item in inputs):
            return site.refuse(
                *("position-table", "combines a value of the whole image with one for every place of the native size"),
                "such a table has no values for other sizes",
            )
        found = [item for item in inputs if item is not None]
        tensor = name if alone else site.keep_renamed(found)[0]
        if alone:
            site.keep(found)
    if alone:
        return [Context(tensor, trace)]
    like = next(_of_that_size(site), None)
    if like is None:
        why = "spreads values over the native size, and no map tells which size is meant"
        return site.refuse("size-locked", why, LEAVE)
    ends = ((tensor, 0, 2), (like.tensor, 2, len(site.shape_out())))
    shape = emit.concat(site.draft, [emit.dims(site.draft, *part) for part in ends])
    site.draft.emit("Expand", [tensor, shape], name, instead=site.node)
    return site.placed(like, like.trace.tainted(*trace.taints, site.taint("context")), like.where)


def _one_place(site: Site, position: int) -> str | None:
    """An input with one place; None where it has several that differ."""
    view = site.views[position]
    if not isinstance(view, Fixed):
        return "" if view is None else tensor_of(view)
    shape = site.shape_in(position)
    own = {len(shape) - 1 - place for place in range(site.state.rank)}
    own |= {0} if site.free_batch and len(shape) == len(site.shape_out()) else set()
    axes = [axis - len(shape) for axis, length in enumerate(shape) if axis in own and length > 1]
    return uniform(site, position, axes)


def _broadcast(site: Site, name: str) -> bool:
    """Whether all that reads a tensor spreads it by itself."""
    readers = site.state.graph.readers.get(name, ())
    if name in site.state.graph.outputs or not readers:
        return False
    return all(
        node.op_type in {*BROADCAST, "Concat"} or (node.op_type in UNARY and _broadcast(site, node.output[0]))
        for node in readers
    )


def _of_that_size(site: Site) -> Iterator[Placed]:
    """Maps of the output's native extents: those that it meets, the image, and all others."""
    spatial = tuple(range(2, len(site.shape_out())))
    known = [view for view in site.state.views.values() if is_map(view)]
    model = next((view for view in known if view.spatial == spatial and not view.trace.windows), None)
    if model is not None:
        yield from sisters(site, model, spatial)
    for view in [*images(site), *reversed(known)]:
        own = lengths(view.groups)
        if view.spatial == spatial and not view.trace.windows and own[2:] == site.shape_out()[2:]:
            yield view
