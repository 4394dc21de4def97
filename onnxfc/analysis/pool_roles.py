"""What pools are, where the walk cannot tell at once: the head's beginning, context, or the trunk's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx

from onnxfc.analysis.elementwise import ELEMENTWISE
from onnxfc.analysis.flow import Flow, Kind, Look, Meeting, flow_of
from onnxfc.analysis.kept_sums import kept_sums
from onnxfc.analysis.kernels import KERNELS
from onnxfc.analysis.layouts import NONE, Names
from onnxfc.analysis.reductions import REDUCING
from onnxfc.analysis.table_sums import summed_by
from onnxfc.analysis.unbiased import unbiased
from onnxfc.builder.state import GlobalPool, Role, Roles
from onnxfc.graph.index import Graph
from onnxfc.graph.op_kinds import BROADCAST, COVERING, LENGTHS, MEANS, PICKING, RESHAPING, UNARY
from onnxfc.layout.gathered import Gathered
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.spec import Spec

RULES = {**ELEMENTWISE, **KERNELS, **REDUCING}
_POOLS: tuple[Kind, ...] = ("cover", "pool")
_WEIGHTS: tuple[Kind, ...] = ("relation", "weights")


def _placeless(flow: Flow) -> Names:
    """What is known to have no places any more."""
    return frozenset(name for name, held in flow.layouts.items() if held.axes is not None and not held.solid)


_LISTING = {*UNARY, *RESHAPING, *LENGTHS, "Concat"}
"""What may be done to places that were laid in a row wholly, (N, H * W * K), and are a list, (N, H * W, K)."""


def _reads_features(flow: Flow) -> bool:
    """Whether places became features and something reads them as such: all but lists of them is a head."""
    flat = {name for name, layout in flow.layouts.items() if layout.flat}
    live = set(map(id, flow.graph.live))
    if not flat or any(node.op_type in PICKING for node in flow.graph.nodes if id(node) not in live):
        return False  # of what the model ends in, places are picked by their values
    readers = [node for name in flat for node in flow.graph.readers.get(name, ())]
    lost = any(flow.layouts[name].axes is None for name in flat)
    return lost or not flat.isdisjoint(flow.graph.outputs) or not all(_of_list(flow, node) for node in readers)


def _of_list(flow: Flow, node: onnx.NodeProto) -> bool:
    """Whether it may be done to a list: each element alone, and by one figure for all of them."""
    others = [flow.native[name].shapes for name in node.input if name and name not in flow.layouts]
    one = node.op_type in BROADCAST and all(shapes and math.prod(shapes[0]) == 1 for shapes in others)
    return one or node.op_type in _LISTING


@dataclass(frozen=True)
class Region:
    """A tensor and all that hold its places one by one: where these end.

    ``ends``: the looks that take them. ``leaves``: whether they go on as a map.
    """

    ends: Gathered[str]
    leaves: bool


def pool_roles(
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    free: bool,
    global_pool: GlobalPool = "window",
    sized: Names = NONE,
) -> Roles:
    """What each node is that looks at places. ``free``: the graph takes images of any size already. ``sized``: what
    then has one size at all of them."""
    flow = flow_of(graph, native, images, free, RULES, global_pool == "keep", sized)
    own = set(flow.deviations) if global_pool == "drop" else set[str]()
    if global_pool != "window":
        flow.deviations.clear()
    found = _decided(flow)
    if own and not found.averages():  # no pool is dropped, so that each window is whole
        flow.deviations |= own
        found = _decided(flow)
    return found.roles(global_pool)


def _decided(flow: Flow) -> _Decision:
    roots = flow.of_kind(flow.looks, *_WEIGHTS) | {item.at for found in flow.meetings.values() for item in found}
    regions = _regions(flow)
    return _Decision(flow, {name: regions[name] for name in roots | flow.deviations})


def _regions(flow: Flow) -> Mapping[str, Region]:
    """Of every tensor, the last one first: each shares those of what is computed from it."""
    found: dict[str, Region] = {}
    inputs = [info.name for info in flow.graph.inputs]
    for name in reversed([*inputs, *(name for node in flow.graph.live for name in node.output)]):
        onward = [found[item] for item in flow.onward.get(name, ())]
        ends = Gathered(flow.ends.get(name, ()), (region.ends for region in onward))
        found[name] = Region(ends, name in flow.leaves or any(region.leaves for region in onward))
    return found


class _Decision:
    """All are taken for heads until something speaks against it."""

    def __init__(self, flow: Flow, regions: Mapping[str, Region]) -> None:
        self.flow, self.regions = flow, regions
        self._put(dict.fromkeys(flow.looks, "head"))
        while (found := {name: self._role(look) for name, look in flow.looks.items()}) != self.of:
            self._put(found)

    def _put(self, found: dict[str, Role]) -> None:
        self.of = found
        self._others = frozenset(name for name, role in found.items() if role != "head")
        self._met: dict[int, bool] = {}

    def _role(self, look: Look) -> Role:
        meetings = self.flow.meetings.get(look.name, [])
        if look.kind == "norm" or look.name in self.flow.spread:
            return "context"
        if not all(self._own_places(look, meeting) for meeting in meetings):
            return "context"
        if look.name in self.flow.slid:
            return "local"
        if look.kind in _WEIGHTS and not self._weighs_window(look):
            return "context"
        return "head"

    def _weighs_window(self, look: Look) -> bool:
        """Whether weights of places belong to the head. What relates places to each other is a layer of the trunk."""
        of_head = look.kind == "weights" and self._ends_in_head(self.regions[look.name])
        return of_head and not any(self.of[other] == "context" for other in look.of)

    def _ends_in_head(self, region: Region) -> bool:
        """Whether all that takes these places belongs to the head."""
        return not region.leaves and not region.ends.meets(self._others, self._met)

    def _own_places(self, look: Look, meeting: Meeting) -> bool:
        """Whether a window meets its own places: by its own figure, as a query of its weights, or made from such."""
        if self.flow.of_kind([meeting.at], "weights"):
            return self._is_own(meeting.at)
        region = self.regions[meeting.at]
        inside = self._ends_in_head(region)
        if meeting.at in self.flow.deviations or self._less_weighted_mean(look, meeting):
            return inside and self._end_as(region, *_POOLS, "weights", "product")
        if meeting.how == "features" or (meeting.how == "tokens" and look.kind == "layer"):
            return inside
        if meeting.how == "query":
            return inside and self._end_as(region, "weights")
        return any(map(self._is_own, meeting.own))

    def _end_as(self, region: Region, *kinds: Kind) -> bool:
        """Whether something takes these places, and only looks of these kinds."""
        ends = frozenset(region.ends)
        return bool(ends) and ends == self.flow.of_kind(ends, *kinds)

    def _less_weighted_mean(self, look: Look, meeting: Meeting) -> bool:
        """Whether a map is less its mean by a window's own weights, as in attentive statistics."""
        return self.flow.graph.producers[meeting.at].op_type == "Sub" and any(map(self._is_own, look.own))

    def _is_own(self, root: str) -> bool:
        """Whether what is made from this, place by place, is each window's own."""
        if root in self.flow.looks:
            return self.flow.looks[root].kind == "weights" and self.of[root] == "head"
        return root in self.flow.deviations and self._ends_in_head(self.regions[root])

    def roles(self, global_pool: GlobalPool) -> Roles:
        """All that the walk wants to know."""
        flow = self.flow
        roots = frozenset().union(*(layout.own for layout in flow.layouts.values()))
        own = frozenset(filter(self._is_own, roots))
        met = [(flow.looks[name], meeting) for name, found in flow.meetings.items() for meeting in found]
        kept = global_pool == "keep"
        counts = unbiased(flow)
        sums, by_hand = kept_sums(flow, counts.times), frozenset(counts.sums)
        level = sums.level | by_hand if kept else NONE
        results = sums.results - by_hand if kept else NONE  # a sum that its count divides is a mean
        reads_features = _reads_features(flow)
        return Roles(
            of=self.of,
            covers={name: flow.looks[name].axes for name in flow.of_kind(flow.looks, *_POOLS)},
            meant=frozenset(n for n in flow.of_kind(flow.looks, "pool") if flow.graph.producers[n].op_type in COVERING),
            pieces=flow.of_kind(flow.looks, "piece", "part"),
            own=frozenset(name for name, layout in flow.layouts.items() if layout.own & own)
            | {meeting.at for look, meeting in met if self._own_places(look, meeting)},
            shares=flow.shares,
            norms=flow.norms,
            plain=results | flow.divisors | {name for name in flow.shared if self.of.get(name) == "context"},
            level=level,
            by_number=by_hand | sums.counted,
            steady=sums.level | by_hand | counts.made.keys(),
            variances=counts.made,
            partly=frozenset(counts.partly),
            counted=frozenset(counts.times) - level,
            whole=self._whole() if kept else NONE,
            placeless=_placeless(flow),
            headed=reads_features or bool(flow.sized) or self.has_head(*_POOLS, "layer", "product"),
            reads_features=reads_features,
            one_sized=flow.sized,
            summed_by=partial(summed_by, flow, self.of),
        )

    def has_head(self, *kinds: Kind) -> bool:
        """Whether a look of one of these kinds belongs to the head."""
        return any(self.of[name] == "head" for name in self.flow.of_kind(self.flow.looks, *kinds))

    def averages(self) -> bool:
        """Whether an average belongs to the head."""
        pools = self.flow.of_kind(self.flow.looks, *_POOLS)
        return any(self.of[name] == "head" and self.flow.graph.producers[name].op_type in MEANS for name in pools)

    def _whole(self) -> Names:
        """Pools and products that stay global if the user wants it, and weights that lead to none but such."""
        whole = set(self.flow.of_kind(self.flow.looks, *_POOLS, "product"))
        rest = self.flow.of_kind(self.flow.looks, *_WEIGHTS)
        ends = {name: frozenset(self.regions[name].ends) for name in rest}
        while more := {name for name in rest - whole if ends[name] and ends[name] <= whole}:
            whole |= more
        return frozenset(whole)
