"""Why nothing can be rewritten: what speaks against a model as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxfc.builder.rule_context import LEAVE
from onnxfc.builder.state import State
from onnxfc.claim.claim import PREFIX, Output
from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.graph.index import dependent, inputs_of, label, needed
from onnxfc.graph.op_kinds import ARG, CUTTING, PICKING, REDUCTIONS
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.lists import row_axis
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Lifted, Placed, ScoreMap, Window, is_map
from onnxfc.rewriter.native_numbers import in_native_pixels, in_sides
from onnxfc.rewriter.outputs import maps_of_windows
from onnxfc.rewriter.shared_counts import by_shared_count
from onnxfc.rules.broadcast import GRIDS
from onnxfc.shapes.image_inputs import Image, is_open
from onnxfc.shapes.length import Length


def recognise(file: ModelFile) -> None:
    """Refuse what onnxfc made already, and operator sets older than onnxruntime runs."""
    model = file.proto
    if any(item.key == f"{PREFIX}native_size" for item in model.metadata_props):
        refusal = Refusal("already-rewritten", "", "this model was rewritten by onnxfc already", "give the original")
        raise NothingToRewrite(str(refusal), (refusal,))
    opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 1)
    if opset < 7:
        reason = f"operator set {opset} is older than 7, the oldest that onnxruntime runs"
        refusal = Refusal("old-opset", "", reason, "convert it with onnx.version_converter")
        raise NothingToRewrite(str(refusal), (refusal,))


def objections(
    state: State, reading: Sequence[Image], provenances: Sequence[Provenance], fixed_size: tuple[int, ...] | None
) -> tuple[Refusal, ...]:
    """What keeps a walk that came to its end from being a rewrite; numbers of the native size do not, where the result
    is for that size alone."""
    if state.not_affine and any(provenance.dropped for provenance in provenances):
        return tuple(state.not_affine)  # a dropped pool does not commute with these
    found = _unclear_lengths(state) or _shifted(state)
    if fixed_size != reading[0].size:
        found = found or in_native_pixels(state, reading) or in_sides(state, reading) or by_shared_count(state, reading)
    found = found or _headless(state, reading, provenances) or _beside_figures(state) or _not_kept(state)
    found = found or _unlike_windows(state, provenances)
    return () if found is None else (found,)


def _headless(state: State, reading: Sequence[Image], provenances: Sequence[Provenance]) -> Refusal | None:
    """A model without a head: nothing to rewrite, or what made windows of its map is none."""
    if not provenances:
        return _nothing(state, "no FC layer and no global pool depends on the image")
    if state.replacements or _pools_windows(state):
        return None
    if _is_free(state, reading):
        return _nothing(state, "no node of it is locked to one image size, and its dims are open already")
    cut = any(set(boundary.extent) != {1} for provenance in provenances for boundary in provenance.windows)
    whole = not any(_lacks_places(state, name) for name in state.graph.outputs)
    return _whole_windows(state) if cut and whole and any(item.places for item in provenances) else None


def _pools_windows(state: State) -> bool:
    """Whether a reduction sums up the features of each window as they are: rows of places beside an axis that stays."""
    most = 2 + state.axes[1]
    for name in state.roles.heads if state.rank < state.axes[1] else ():
        node = state.graph.producers[name]
        rows = node.op_type in REDUCTIONS and state.native[node.input[0]].rank < most
        if rows and isinstance(state.views.get(name), ScoreMap):
            return True
    return False


def _not_kept(state: State) -> Refusal | None:
    """A figure of the whole image that the user wants kept, and that became one of each window."""
    for name in sorted(state.roles.heads) if state.global_pool == "keep" else ():
        node = state.graph.producers[name]
        kept = name in state.roles.whole or _weighs_coordinates(state, node)
        if kept and isinstance(state.views.get(name), Window | ScoreMap):
            does = "picks one of the places" if node.op_type in (*ARG, *PICKING) else "takes together places"
            why = f"{node.op_type} {does} that are features of a window here: it is not kept global"
            return Refusal("not-kept", label(node), why, "leave out --global-pool keep")
    return _native_count(state)


def _native_count(state: State) -> Refusal | None:
    """A figure of the whole image that reckons with the native number of its places, which the file has as a number."""
    kept = state.global_pool == "keep"
    held = state.roles.partly | (state.roles.counted if kept else frozenset())
    for name in sorted(held) if kept or state.dense else ():
        node, view = state.graph.producers[name], state.views.get(name)
        if not isinstance(view, Context | Placed):
            continue
        if name in state.roles.partly:
            why = f"{node.op_type} makes a variance over N - 1 of some axes of the image, and N is a number of the file"
            advice = "export it with open height and width, or, where torch.var makes it, with dynamo=False"
            advice += "; or leave out --global-pool keep" if kept else ""
            return Refusal("not-kept" if kept else "size-locked", label(node), why, advice)
        why = f"{node.op_type} scales a figure by the native number of its places, its root or a part of it"
        return Refusal("sum-over-image", label(node), f"{why}, as a sum does", "use --global-pool window")
    return None


def _weighs_coordinates(state: State, node: onnx.NodeProto) -> bool:
    """Whether a Softmax weighs coordinates of places, of which a matrix holds few that differ; an FC layer's weights
    are all others, and it has windows whatever the option."""
    if node.op_type not in {"Softmax", "LogSoftmax"}:
        return False
    values = [
        state.native[name].constant for reader in state.graph.readers.get(node.output[0], ()) for name in reader.input
    ]
    return any(value is not None and value.ndim == 2 and 2 * len(np.unique(value)) < len(value) for value in values)


def _beside_figures(state: State) -> Refusal | None:
    """Places in a row with a figure of the window on the same axis, which no head reads: there is no list of these."""
    found = list(state.graph.outputs)
    for name in found:
        node = state.graph.producers.get(name)
        if node is None or name in state.roles.heads or not isinstance(state.views.get(name), Window | ScoreMap):
            continue
        views = [state.views.get(item) for item in inputs_of(node)]
        rows = [view for view in views if isinstance(view, Placed) and row_axis(view, state.rank) is not None]
        if node.op_type == "Concat" and rows and any(isinstance(view, ScoreMap | Window) for view in views):
            why = "Concat lays figures of the whole window behind the places of a list, and no FC layer reads them"
            return Refusal("mixes-map-and-window", label(node), why, "give them as outputs of their own: --output-at")
        found.extend(item for item in inputs_of(node) if item not in found)
    return None


def _unlike_windows(state: State, provenances: Sequence[Provenance]) -> Refusal | None:
    """Windows that are a map, or lie no whole pixels apart."""
    for name in maps_of_windows(state):
        ahead = needed(state.graph.live, [name])
        node = next((node for node in ahead if _makes_window(state, node)), None)
        does = f"{node.op_type} reads" if node is not None else "a node reads"
        why = f"{does} a map of the native size as features of one window, and the output {name} is a map again"
        return Refusal("size-locked", name if node is None else label(node), why, LEAVE)
    if any(item.windows and any(f.stride != int(f.stride) for f in item.fields) for item in provenances):
        return Refusal("fractional-stride", "", "the head's windows are a fraction of a pixel apart")
    return None


def _makes_window(state: State, node: onnx.NodeProto) -> bool:
    """Whether a node makes features of a window of what was a map."""
    read = [state.views.get(name) for name in inputs_of(node)]
    made = any(isinstance(state.views.get(name), Window | ScoreMap) for name in node.output)
    return made and any(isinstance(view, Placed) for view in read)


def _lacks_places(state: State, name: str) -> bool:
    """Whether an output is a map of the trunk without the axes on which that has one place natively: logits over time,
    whose height and width were squeezed."""
    view, shape = state.views[name], state.native[name].shapes
    bounds = view.provenance.windows if isinstance(view, Lifted) and shape is not None else ()
    return any(shape and len(shape[0]) == 2 + sum(n > 1 for n in b.extent) < 2 + state.rank for b in bounds)


def _unclear_lengths(state: State) -> Refusal | None:
    """Figures alike at all places of a level, beside coordinates that are parts of the image or of the map: they may be
    parts of it too, or pixels."""
    moving = [item for item in state.continued if not item.alike]
    rules = {rule for item in moving for rule in item.rules if rule}
    orders = {item.order for item in state.continued if item.order}
    for item in state.continued:
        told = "with a value for each level of places"
        if item.lengths and (rules != {"image"} or len(orders) > 1):
            why = f"reads {item.table}, {told}, beside coordinates that are no parts of the image"
            return Refusal(
                "grid-rule", item.node, why, "leave out --grids image, or leave this model at its native size"
            )
        if item.alike and not item.lengths and rules - {"step", "resize"}:
            why = (
                f"reads {item.table}, {told}, beside coordinates that are spread over the places: of what is it a part?"
            )
            return Refusal("grid-rule", item.node, why, "say it: --grids image (parts of the image) or step (pixels)")
    return None


def without_effect(state: State, outputs: Sequence[Output], provenances: Sequence[Provenance]) -> list[Refusal]:
    """What to say of options that change nothing."""
    kept, dropped = any(item.form == "global" for item in outputs), any(item.dropped for item in provenances)
    found = []
    if not {"window": True, "keep": kept, "drop": dropped}[state.global_pool]:
        why = f"--global-pool {state.global_pool} changes nothing: no head begins with a pool over the whole image"
        found.append(Refusal("no-global-pool", "", why))
    dynamic = [node for node in state.graph.live if node.op_type == "DynamicQuantizeLinear"]
    if state.quantised.per_window and not any(isinstance(state.views[n.output[0]], ScoreMap) for n in dynamic):
        why = "--per-window-scale changes nothing: no scale is taken from the features of a window"
        found.append(Refusal("no-window-scale", "", why))
    if state.quantised.in_floats and not state.quantised.blocks:
        why = "--dequantize-head changes nothing: no weight is stored as MatMulNBits has it, in blocks of few bits"
        found.append(Refusal("no-weight-blocks", "", why))
    return found


def _shifted(state: State) -> Refusal | None:
    """A map that is padded as it was natively, beside something that reckons with what the padding was at any size."""
    builder = state.builder
    for node in needed(builder.nodes, state.graph.outputs) if state.frozen else ():
        read = [builder.specs[name] for name in inputs_of(node) if name in builder.specs]
        rests = any(spec.follows for spec in read)
        if rests and all(builder.specs[name].values is None for name in node.output if name in builder.specs):
            why = f"is padded to whole blocks on both sides, and {label(node)} takes account of it"
            return Refusal("unknown-pads", state.frozen[0].node, f"the map {why}", LEAVE)
    return _beside_crops(state) or _on_no_grid(state)


def _beside_crops(state: State) -> Refusal | None:
    """An output of the whole image behind what is what it is for a crop."""
    for item in state.frozen:
        behind = dependent(state.graph.live, [item.made])
        for name in behind.intersection(state.graph.outputs):
            view = state.views[name]
            if isinstance(view, Context) or (isinstance(view, Placed) and not view.provenance.windows):
                why = f"brings crops to a size of their own, and the output {name} is of the whole image"
                heads = state.ending(other for other in state.graph.outputs if other != name)
                advice = f"leave that out: {heads}" if heads else "use --global-pool window"
                return Refusal("size-locked", item.node, why, advice)
    return None


def _on_no_grid(state: State) -> Refusal | None:
    """A map beside a pool that is kept, of which an axis follows two of the image: it was made square, say."""
    extents, places = state.builder.extents, set(range(state.rank))
    for name in state.graph.outputs if state.undivided else ():
        view = state.views[name]
        extents.follow(needed(state.builder.nodes, state.graph.outputs))
        dims = extents.dims(name) or ()
        where = view.where if is_map(view) and dims else {}
        for place, dim in ((place, dims[axis]) for place, axis in where.items()):
            if isinstance(dim, Length) and dim.axes & places - {place}:
                why = (
                    f"the output {name} is a map of which one axis follows height and width: its places are on no grid"
                )
                return Refusal("size-locked", name, why, LEAVE)
    return None


def _is_free(state: State, reading: Sequence[Image]) -> bool:
    """Whether the image's dims are open already and no node had to change for it."""
    own = {id(node) for node in state.graph.nodes}
    return is_open(state.graph, reading) and all(id(node) in own for node in state.builder.nodes)


def _whole_windows(state: State) -> Refusal:
    """No FC layer and no pool sums up the features of a window: what made windows of the map?"""
    cuts = Gathered.joined(view.provenance.pools for view in state.views.values() if isinstance(view, Lifted))
    pieces = state.roles.pieces.intersection(cuts)
    for node in state.graph.nodes:
        if pieces.intersection(node.output):
            does = "cuts a piece out of the map" if node.op_type in CUTTING else "picks places of the map"
            why = f"{node.op_type} {does} of the native size, and no FC layer or pool reads it"
            return Refusal("cut-out", label(node), why, LEAVE)
    for name in state.graph.outputs:
        view = state.views[name]
        if isinstance(view, Window | ScoreMap) and view.batch_axis is None:
            why = "the output is a map, or a list of places, of one image without a batch, which is not understood"
            return Refusal("no-head", name, why, "export it with a batch of 1 ahead")
    remarks = [note for note in state.remarks if note.code == "per-window"]
    if not remarks:
        why = "its outputs are the flattened map itself: no FC layer and no global pool reads it"
        return Refusal("no-head", "", why, _NO_LIST)
    met = next((node for node in state.graph.live if _of_unlike_strides(state, node)), None)
    if met is not None:
        code, why = GRIDS
        return Refusal(code, label(met), f"{met.op_type} {why}")
    first = remarks[0]
    why = f"{first.reason.split()[0]} works on the whole map of the native size, and no FC layer or pool follows"
    return Refusal("size-locked", first.node, why, LEAVE)


def _of_unlike_strides(state: State, node: onnx.NodeProto) -> bool:
    """Whether whole maps meet at a node as windows, which lie on no one grid but a coarser one."""
    views = [state.views.get(name) for name in inputs_of(node)]
    of_maps = [view.provenance for view in views if isinstance(view, Window | ScoreMap) and view.provenance.places]
    return len({tuple(field.stride for field in provenance.fields) for provenance in of_maps}) > 1


_NO_LIST = "a list of places is freed where their scores have an axis of their own"
_NO_HEAD = "nothing in it is made for one image size"


def _nothing(state: State, why: str) -> Refusal:
    kinds: dict[str, int] = {}
    for node in state.graph.live:
        kinds[node.op_type] = kinds.get(node.op_type, 0) + 1
    seen = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items(), key=lambda item: -item[1])[:6])
    return Refusal("no-head", "", f"{why}; it has {seen}", _NO_HEAD)
