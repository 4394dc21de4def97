"""What every pool, reduction, norm and Softmax over places is, decided on the original before it is walked.

A *head* begins where the result never meets the places again that were pooled. *Context* does: the result is spread
over a map of the same image, whatever its resolution. A pool is *local* where something slides over its result, though
its kernel just covers the native map. Decided from what reads what and from native shapes, never from node order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxfc.analysis.flow import Flow, Look, Meeting, flow_of
from onnxfc.analysis.layouts import Names
from onnxfc.analysis.steps import STEPS
from onnxfc.graph import Graph
from onnxfc.images import Image
from onnxfc.specs import Spec
from onnxfc.state import GlobalPool, Role, Roles


def pool_roles(
    graph: Graph, native: Mapping[str, Spec], images: Sequence[Image], free: bool, global_pool: GlobalPool = "window"
) -> Roles:
    """What each node is that looks at places. ``free``: the graph takes images of any size already."""
    flow = flow_of(graph, native, images, free, STEPS)
    if global_pool != "window":
        flow.deviations.clear()
    ahead = {name: _region(flow, name) for name in _roots(flow)}
    roles = _decided(flow, ahead)
    met = {
        meeting.at
        for name, found in flow.meetings.items()
        for meeting in found
        if _own(flow, flow.looks[name], meeting, roles, ahead)
    }
    own = {root for root in _regions(flow) if _is_own(flow, root, roles, ahead)}
    made = {name for name, layout in flow.layouts.items() if layout.own & own}
    return Roles(
        of=roles,
        covers={name: look.axes for name, look in flow.looks.items() if look.kind == "cover"},
        pieces=frozenset(name for name, look in flow.looks.items() if look.kind in {"piece", "part"}),
        own=frozenset(made | met),
        whole=_whole(flow, ahead) if global_pool == "keep" else frozenset(),
        headed=any(roles[name] == "head" and look.kind in _HEADS for name, look in flow.looks.items()),
    )


def _whole(flow: Flow, ahead: Mapping[str, set[str]]) -> Names:
    """What stays global with the pools that it leads to, where these do."""
    found = {name for name, look in flow.looks.items() if look.kind in {"cover", "pool", "product"}}
    rest = [name for name, look in flow.looks.items() if look.kind in {"relation", "weights"}]
    for _ in rest:
        more = {name for name in rest if (ends := _ends(flow, ahead[name])) and ends <= found}
        if more <= found:
            break
        found |= more
    return frozenset(found)


_HEADS = {"cover", "layer", "pool", "product"}


def _decided(flow: Flow, ahead: Mapping[str, set[str]]) -> dict[str, Role]:
    """All are taken for heads until something speaks against it."""
    roles: dict[str, Role] = dict.fromkeys(flow.looks, "head")
    while True:
        found = {name: _role(flow, name, roles, ahead) for name in flow.looks}
        if found == roles:
            return roles
        roles = found


def _regions(flow: Flow) -> Names:
    """What results are called after that are each window's own, or may be."""
    return frozenset().union(*(layout.own for layout in flow.layouts.values()))


def _roots(flow: Flow) -> set[str]:
    """Tensors with places of which it matters where these end."""
    keep = {name for name, look in flow.looks.items() if look.kind in {"weights", "relation"}}
    return keep | {meeting.at for found in flow.meetings.values() for meeting in found}


def _region(flow: Flow, name: str) -> set[str]:
    """A tensor and all that hold its places one by one."""
    found, queue = {name}, [name]
    while queue:
        new = flow.onward[queue.pop()] - found
        found |= new
        queue += new
    return found


def _ends(flow: Flow, region: Iterable[str]) -> set[str]:
    """What takes the places of these tensors."""
    return set[str]().union(*(flow.ends.get(item, set()) for item in region))


def _role(flow: Flow, name: str, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> Role:
    look, meetings = flow.looks[name], flow.meetings.get(name, [])
    if look.kind == "norm" or name in flow.spread or not all(_own(flow, look, m, roles, ahead) for m in meetings):
        return "context"
    if name in flow.slid:
        return "local"
    if look.kind in {"weights", "relation"}:
        if any(roles[other] == "context" for other in look.of):
            return "context"
        return "head" if _ends_in_head(flow, ahead[name], roles, look.kind == "relation") else "context"
    return "head"


def _ends_in_head(flow: Flow, region: Iterable[str], roles: Mapping[str, Role], relation: bool) -> bool:
    """Whether all that takes these places belongs to the head.

    What relates places to each other may not have been laid out as a map again, or pooled.
    """
    region = set(region)
    ends = _ends(flow, region)
    if region & flow.leaves or any(roles[end] != "head" for end in ends):
        return False
    kinds = {flow.looks[end].kind for end in ends}
    mapped = any(flow.layouts[item].is_map for item in region if item in flow.layouts)
    return not relation or (not mapped and kinds <= {"layer", "relation", "weights"})


def _own(flow: Flow, look: Look, meeting: Meeting, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> bool:
    """Whether a window meets its own places: less its own mean, as a query of its weights, or made from such."""
    ends = _ends(flow, ahead[meeting.at])
    inside = _ends_in_head(flow, ahead[meeting.at], roles, False)
    if meeting.at in flow.deviations:
        return inside and bool(ends) and all(flow.looks[end].kind in {"pool", "cover"} for end in ends)
    if meeting.how == "features" or (meeting.how == "tokens" and look.kind == "layer"):
        return inside
    if meeting.how == "query":
        return inside and bool(ends) and all(flow.looks[end].kind == "weights" for end in ends)
    return any(_is_own(flow, root, roles, ahead) for root in meeting.own)


def _is_own(flow: Flow, root: str, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> bool:
    """Whether a region is a window's own, place by place."""
    if root in flow.looks:
        return flow.looks[root].kind == "weights" and roles[root] == "head"
    return root in flow.deviations and _ends_in_head(flow, ahead[root], roles, False)
