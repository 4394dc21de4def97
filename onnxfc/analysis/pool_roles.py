"""What every pool, reduction, norm and Softmax over places is, decided on the original before it is walked.

A *head* begins where the result never meets the places again that were pooled. *Context* does: the result is spread
over a map of the same image, whatever its resolution. A pool is *local* where something slides over its result, though
its kernel just covers the native map. Decided from what reads what and from native shapes, never from node order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxfc.analysis.flow import Flow, Meeting, flow_of
from onnxfc.analysis.steps import STEPS
from onnxfc.graph import Graph
from onnxfc.images import Image
from onnxfc.specs import Spec
from onnxfc.state import Role


def pool_roles(graph: Graph, native: Mapping[str, Spec], images: Sequence[Image], free: bool) -> dict[str, Role]:
    """By the first output of each node that looks at places. ``free``: the graph takes images of any size already."""
    return decided(flow_of(graph, native, images, free, STEPS))


def decided(flow: Flow) -> dict[str, Role]:
    """All are taken for heads until something speaks against it."""
    roles: dict[str, Role] = dict.fromkeys(flow.looks, "head")
    for name in flow.looks:
        roles[name] = "local" if name in flow.slid else "head"
    ahead = {name: _region(flow, name) for name in _roots(flow)}
    changed = True
    while changed:
        found = {name: _role(flow, name, roles, ahead) for name in flow.looks}
        changed = found != roles
        roles = found
    return roles


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


def _role(flow: Flow, name: str, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> Role:
    look, meetings = flow.looks[name], flow.meetings.get(name, [])
    if look.kind == "norm" or name in flow.spread or not all(_own(flow, m, roles, ahead) for m in meetings):
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
    ends = set[str]().union(*(flow.ends.get(item, set()) for item in region))
    if region & flow.leaves or any(roles[end] != "head" for end in ends):
        return False
    kinds = {flow.looks[end].kind for end in ends}
    mapped = any(flow.layouts[item].is_map for item in region if item in flow.layouts)
    return not relation or (not mapped and kinds <= {"layer", "relation", "weights"})


def _own(flow: Flow, meeting: Meeting, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> bool:
    """Whether a window meets its own places: less its own mean, as a query of its weights, or made from such."""
    ends = set[str]().union(*(flow.ends.get(item, set()) for item in ahead[meeting.at]))
    inside = _ends_in_head(flow, ahead[meeting.at], roles, False)
    if meeting.how == "deviation":
        return inside and bool(ends) and all(flow.looks[end].kind in {"pool", "cover"} for end in ends)
    if meeting.how == "features":
        return inside
    if meeting.how == "query":
        return inside and bool(ends) and all(flow.looks[end].kind == "weights" for end in ends)
    return any(_is_own(flow, root, roles, ahead) for root in meeting.own)


def _is_own(flow: Flow, root: str, roles: Mapping[str, Role], ahead: Mapping[str, set[str]]) -> bool:
    """Whether a region is a window's own, place by place."""
    if root in flow.looks:
        return flow.looks[root].kind == "weights" and roles[root] == "head"
    return _ends_in_head(flow, ahead[root], roles, False)
