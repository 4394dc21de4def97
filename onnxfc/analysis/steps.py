"""What each operator does to the places of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxfc.analysis.flow import How, Kind, Step, laid, unknown
from onnxfc.analysis.layouts import LAID, NONE, Layout, Names, aligned, moved, places, reshaped, resized
from onnxfc.axes import Atom, Groups, channels, doubled
from onnxfc.equation import letters_of
from onnxfc.op_kinds import BROADCAST, MEANS, REDUCTIONS, SLIDING, SOFTMAX, SPREADING, UNARY
from onnxfc.sliding import covered, covers, sliding

Rule = Callable[[Step], Layout | None]


# Element by element


def same(step: Step) -> Layout:
    """Each element alone, or with others of its place."""
    name, held = step.given[0]
    if len(step.given) > 1:
        return unknown(step)
    step.onward([name])
    return replace(held, mean=held.mean if step.node.op_type in {"Identity", "Cast"} else "")


def broadcast(step: Step) -> Layout:
    """Inputs spread over each other."""
    given, rank = step.given, len(step.after)
    step.onward(name for name, layout in given if layout.solid)
    deviates = step.node.op_type == "Sub" and _own_mean(step)
    held = [layout for _, layout in given if layout.solid]
    flat, rows = all(layout.flat for layout in held), not any(layout.is_map for layout in held)
    how: How = "features" if flat else "tokens" if rows else ""
    made = laid(step, [(layout, aligned(layout, rank)) for _, layout in given], how)
    if deviates and not flat:
        step.flow.deviations.add(step.name)
        made = replace(made, own=made.own | {step.name})
    return _spread(step, made)


def _own_mean(step: Step) -> bool:
    """Whether it is a tensor less its own mean over all places."""
    names = list(step.node.input)
    return any(layout.mean in names and layout.mean != name for name, layout in step.given)


def _spread(step: Step, made: Layout) -> Layout:
    """Where an axis that a pool left with one place is as long as a constant is."""
    if made.axes is None:
        return made
    wide = [axis for axis, length in enumerate(step.after) if length > 1 and made.thin_at(axis)]
    return laid_out(step, made, wide)


def laid_out(step: Step, held: Layout, wide: Sequence[int]) -> Layout:
    """Pools' results over places again."""
    if not wide or held.axes is None:
        return held
    pools = NONE.union(*(held.thin_at(axis) for axis in wide))
    step.flow.spread |= pools
    here = frozenset[int]().union(*(places(held.axes[axis]) for axis in wide))
    axes = [
        tuple(replace(atom, length=step.after[axis]) if atom.kind == "space" else atom for atom in group)
        if axis in wide
        else group
        for axis, group in enumerate(held.axes)
    ]
    thin = frozenset((place, name) for place, name in held.thin if place not in here)
    return replace(held, axes=tuple(axes), thin=thin, looks=held.looks - pools, mean="")


# Movement


def transpose(step: Step) -> Layout:
    name, held = step.given[0]
    step.onward([name])
    if held.axes is None:
        return held
    perm = step.attrs.get("perm") or range(len(held.axes) - 1, -1, -1)
    return replace(moved(held, [held.axes[axis] for axis in perm]), mean="")


def reshape(step: Step) -> Layout:
    if step.layouts[0] is None:
        return unknown(step)
    name, held = step.given[0]
    step.onward([name])
    return reshaped(held, step.after)


def concat(step: Step) -> Layout:
    """Beside each other; along places, end to end."""
    given, rank = step.given, len(step.after)
    axis = int(step.attrs["axis"]) % rank
    along = any(layout.axes is not None and places(layout.axes[axis]) & layout.solid for _, layout in given)
    if along or all(layout.axes is None for _, layout in given):
        step.leave()
        looks: Names = NONE.union(*(layout.looks for _, layout in given))
        first = next(layout for _, layout in given)
        every = frozenset.intersection(*(layout.solid for _, layout in given))
        axes = [group if places(group) <= every else () for group in first.axes or ()]
        if axes:
            axes[axis] = (Atom("space", step.after[axis], LAID),)
        return moved(replace(first.lost, looks=looks, own=NONE), axes) if axes else replace(first.lost, looks=looks)
    step.onward(name for name, layout in given if layout.solid)
    made = laid(step, [(layout, aligned(layout, rank)) for _, layout in given])
    made = _spread(step, made)
    axes = made.axes or ()
    return moved(made, [*axes[:axis], channels(step.after[axis]), *axes[axis + 1 :]])


def gather(step: Step) -> Layout | None:
    """Channels by number; places by number are a piece, or blocks."""
    held, index = step.layouts[0], step.layouts[1]
    if held is None or index is not None or held.axes is None:
        return unknown(step)
    axis, rank = int(step.attrs.get("axis", 0)) % len(held.axes), len(step.shape(step.node.input[1]))
    group = held.axes[axis]
    if not places(group) & held.solid:
        step.onward([step.node.input[0]])
        rest = tuple(channels(length) for length in step.after[axis : axis + rank])
        return moved(replace(held, mean=""), [*held.axes[:axis], *rest, *held.axes[axis + 1 :]])
    if rank == 2:
        step.leave()
        blocks = (channels(step.after[axis]), (replace(group[0], length=step.after[axis + 1]),))
        return replace(moved(held, [*held.axes[:axis], *blocks, *held.axes[axis + 1 :]]), own=NONE, mean="")
    rest = () if rank == 0 else (channels(step.after[axis]),)
    cut = _piece(step, held, axis)
    return moved(cut, [*held.axes[:axis], *rest, *held.axes[axis + 1 :]])


def cut(step: Step) -> Layout:
    """Channels, or a piece of the places: one that ends at a fixed place, or is computed; else borders are cut off."""
    held = step.layouts[0]
    if held is None or held.axes is None:
        return unknown(step)
    computed = step.node.op_type == "Slice" and any(step.measured(name) for name in step.node.input[1:])
    changed = [k for k, pair in enumerate(zip(step.before, step.after, strict=True)) if len(set(pair)) > 1]
    touched = (step.axes(len(step.before), 3) or range(len(step.before))) if computed else changed
    along = [axis for axis in touched if places(held.axes[axis]) & held.solid]
    if not along:
        step.onward([step.node.input[0]])
        return replace(resized(held, step.after), mean="")
    if step.node.op_type == "Slice" and not computed and not any(_fixed_end(step, axis) for axis in along):
        step.leave()
        return resized(replace(held, own=NONE, mean=""), step.after)
    return resized(_piece(step, held, *along, kind="part" if computed else "piece"), step.after)


def _fixed_end(step: Step, axis: int) -> bool:
    """Whether a Slice ends at a fixed place of the native map."""
    rank, length = len(step.before), step.before[axis]
    named = "starts" in step.attrs
    starts, ends = (
        np.atleast_1d(step.attrs[n] if named else step.constant(k)) for k, n in ((1, "starts"), (2, "ends"))
    )
    axes = step.axes(rank, 3) or list(range(len(starts)))
    steps = step.constant(4)
    at = axes.index(axis)
    return bool((steps is None or steps[at] > 0) and 0 <= ends[at] < length)


def _piece(step: Step, held: Layout, *axes: int, kind: Kind = "piece") -> Layout:
    look = step.look(kind, frozenset(), axes, [step.node.input[0]])
    return replace(held, own=held.own | look, mean="")


def copies(step: Step) -> Layout:
    """Expand, Tile, Resize: what a pool left laid out again, or a map resampled."""
    held = step.layouts[0]
    if held is None or held.axes is None:
        return unknown(step)
    rank, name = len(step.after), step.node.input[0]
    held = moved(held, aligned(held, rank) or ())
    before = (1,) * (rank - len(step.before)) + step.before
    longer = [axis for axis in range(rank) if step.after[axis] != before[axis]]
    thin = [axis for axis in longer if before[axis] == 1 and held.thin_at(axis)]
    scaled = step.node.op_type == "Resize" and step.opset >= 11 and step.constant(3) is None
    if scaled and step.covers(NONE.union(*(held.thin_at(axis) for axis in thin))):
        step.leave()
        return resized(_under_kernel(step, held, thin), step.after)
    if thin:
        return resized(laid_out(step, held, thin), step.after)
    if not held.solid and longer and rank == 2 + _rank(step) and min(longer) >= 2:
        step.flow.spread |= {n for n in held.looks if step.flow.looks[n].kind != "layer"}
    if any(places(held.axes[axis]) for axis in longer):
        step.leave()
        return resized(replace(held, own=NONE, mean=""), step.after)
    step.onward([name])
    return resized(held, step.after)


def _rank(step: Step) -> int:
    return max((len(image.axes or ()) for image in step.flow.layouts.values()), default=4) - 2


# A kernel slides


def slide(step: Step) -> Layout:
    """A Conv or a pool: over places, over channels alone, or over all that there is natively."""
    held, name = step.layouts[0], step.node.input[0]
    if held is None or held.axes is None or len(step.given) > 1:
        return unknown(step)
    weight = step.shape(step.node.input[1]) if len(step.node.input) > 1 else ()
    how = sliding(step.attrs, step.before, weight)
    if how is None:
        return unknown(step)
    if places(held.axes[1]) & held.solid and "Conv" in step.node.op_type:
        return _layer_of_rows(step, held)
    axes = _covered(step, held)
    if axes:
        return _pooled(step, held, axes, "cover", keep=True)
    rest = [k for k in range(2, len(step.before)) if places(held.axes[k])]
    moves = [k for k in rest if how.moves(k - 2)]
    if held.solid:
        step.flow.slid |= {n for n in held.own if step.is_piece(n)}
    made = resized(_under_kernel(step, held, moves), step.after)
    if moves:
        step.leave()
        return replace(made, own=NONE)
    step.onward([name])
    return made


def _under_kernel(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    """A map over some axes of which something slides: so did the pools that just cover the native map before it."""
    over = step.covers(NONE.union(*(held.thin_at(axis) for axis in axes)))
    if any(places(held.axes[axis]) & held.solid for axis in axes if held.axes is not None):
        step.flow.slid |= step.covers(held.looks)
    step.flow.slid |= over
    thin = frozenset((place, name) for place, name in held.thin if name not in over)
    return replace(held, thin=thin, looks=held.looks - over, mean="")


def _covered(step: Step, held: Layout) -> list[int]:
    """The axes that a pool's window covers natively."""
    if step.node.op_type not in {"AveragePool", "MaxPool"} or held.axes is None:
        return []
    how = sliding(step.attrs, step.before, ())
    assert how is not None
    spatial = [k for k in range(2, len(step.before)) if places(held.axes[k]) & held.solid]
    if len(spatial) == len(step.before) - 2:
        counted = step.node.op_type == "AveragePool" and bool(step.attrs.get("count_include_pad", 0))
        if covers(how, step.before, step.after, counted) and (not step.flow.free or _leads_to_layer(step)):
            return spatial
    if step.flow.free:
        return []
    return [axis for axis in covered(how, step.before, step.after) if axis in spatial]


def _leads_to_layer(step: Step) -> bool:
    """Whether all that reads the node, moved at most, is an FC layer: it is the head's pool, whatever its stride."""
    names, graph = [step.name], step.flow.graph
    for name in names:
        for node in graph.readers.get(name, ()):
            if node.op_type in {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}:
                names.append(node.output[0])
            elif node.op_type not in {"Gemm", "MatMul"} or node.input[1] not in graph.initializers:
                return False
    return len(names) > 1 or bool(graph.readers.get(names[0]))


def _layer_of_rows(step: Step, held: Layout) -> Layout:
    """A Conv that sums places which were folded into its channels."""
    assert held.axes is not None
    gone = places(held.axes[1]) & held.solid
    look = step.look("layer", gone, (1,), [step.node.input[0]])
    axes = [*held.axes[:1], channels(step.after[1]), *held.axes[2:]]
    return resized(replace(moved(held, axes), looks=held.looks | look, mean=""), step.after)


def grid(step: Step) -> Layout:
    """The map in another resolution, or with more around it."""
    held = step.layouts[0]
    if held is None or len(step.given) > 1:
        return unknown(step)
    if held.axes is None or len(step.before) != len(step.after):
        step.leave()
        return held.lost
    moving = [k for k, pair in enumerate(zip(step.before, step.after, strict=True)) if len(set(pair)) > 1]
    moving = [k for k in moving if places(held.axes[k])]
    if not moving and step.node.op_type == "Pad":
        step.onward([step.node.input[0]])
        return resized(replace(held, mean=""), step.after)
    step.leave()
    return replace(resized(_under_kernel(step, held, moving), step.after), own=NONE)


# What sums places


def reduce(step: Step) -> Layout:
    held = step.layouts[0]
    if held is None or held.axes is None or len(step.given) > 1:
        return unknown(step)
    rank = len(step.before)
    axes = step.axes(rank)
    if not axes:
        axes = [] if step.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return _pooled(step, held, axes, "pool", keep=bool(step.attrs.get("keepdims", 1)))


def global_pool(step: Step) -> Layout:
    held = step.layouts[0]
    if held is None or held.axes is None:
        return unknown(step)
    return _pooled(step, held, range(2, len(step.before)), "pool", keep=True)


def picked(step: Step) -> Layout:
    """ArgMax, ArgMin and TopK along an axis."""
    held = step.layouts[0]
    default = -1 if step.node.op_type == "TopK" else 0
    if held is None or held.axes is None or len(step.given) > 1:
        return unknown(step)
    axis = int(step.attrs.get("axis", default)) % len(held.axes)
    keep = step.node.op_type == "TopK" or bool(step.attrs.get("keepdims", 1))
    made = _pooled(step, held, [axis], "pool", keep=keep)
    return resized(made, step.after) if step.node.op_type == "TopK" else made


def _pooled(step: Step, held: Layout, axes: Sequence[int], kind: str, keep: bool) -> Layout:
    """Without the places of some axes, which are left with one or go."""
    assert held.axes is not None
    name, every = step.node.input[0], places(a for k in axes for a in held.axes[k])
    left = [(() if places(g) else g) if k in axes else g for k, g in enumerate(held.axes)]
    kept = frozenset[int]().union(*(places(group) for group in left)) & held.solid
    if not every:
        step.onward([name])
        rest = [() if k in axes else g for k, g in enumerate(held.axes) if keep or k not in axes]
        return replace(moved(held, rest), mean="")
    relation = bool(every & kept)
    look = step.look("relation" if relation else kind, every - kept, axes, [name])  # type: ignore[arg-type]
    thin = frozenset((p, n) for p, n in held.thin if p not in every)
    rest = []
    for k, group in enumerate(held.axes):
        if k not in axes:
            rest.append(group)
        elif keep:
            one = len(group) == 1 and places(group) and not relation
            rest.append((replace(group[0], length=1),) if one else ())
            thin |= {(p, n) for p in places(group) for n in look} if one else frozenset()
    alone = all(atom.kind == "space" for k in axes for atom in held.axes[k])
    mean = name if step.node.op_type in MEANS and alone and every >= held.solid else ""
    own = held.own if kept else NONE
    looks = held.looks if relation else held.looks | look
    made = replace(moved(held, rest), thin=thin, looks=looks, own=own, mean=mean, flat=held.flat and bool(kept))
    if relation:
        step.onward([name])
        made = replace(made, own=own | look)
    return made


def softmax(step: Step) -> Layout:
    """Weights that sum up to 1."""
    held = step.layouts[0]
    if held is None or held.axes is None or len(step.given) > 1:
        return unknown(step)
    rank, flat = len(held.axes), step.opset < 13 and step.node.op_type in SOFTMAX
    axis = int(step.attrs.get("axis", 1 if flat else -1)) % rank
    return _weighed(step, held, range(axis, rank if flat else axis + 1))


def layer_norm(step: Step) -> Layout:
    held = step.layouts[0]
    if held is None or held.axes is None or len(step.given) > 1:
        return unknown(step)
    rank = len(held.axes)
    return _weighed(step, held, range(int(step.attrs.get("axis", -1)) % rank, rank))


def _weighed(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    assert held.axes is not None
    name, here = step.node.input[0], places(a for k in axes for a in held.axes[k]) & held.solid
    if not here:
        step.onward([name])
        return replace(held, mean="")
    look = step.look("weights", here, axes, [name])
    return replace(held, own=held.own | look, mean="")


def whole_norm(step: Step) -> Layout:
    """Statistics of the whole map: context in any case."""
    held = step.layouts[0]
    if held is None or len(step.given) > 1:
        return unknown(step)
    if held.solid:
        step.look("norm", held.solid, range(2, len(step.before)), [step.node.input[0]])
        step.leave()
    return replace(held, own=NONE if held.solid else held.own, mean="")


# Products


def matmul(step: Step) -> Layout:
    ranks = [len(step.shape(name)) for name in step.node.input[:2]]
    stack = "".join(chr(ord("d") + k) for k in range(max(ranks) - 2)) if max(ranks) > 2 else ""
    terms = []
    for rank, ends in zip(ranks, ("ab", "bc"), strict=True):
        terms.append(stack[len(stack) - (rank - 2) :] + ends if rank > 1 else "b")
    out = stack + "".join(letter for letter, rank in zip("ac", ranks, strict=True) if rank > 1)
    return contract(step, terms, out)


def gemm(step: Step) -> Layout:
    """As MatMul, turned, and a bias."""
    terms = ["ba" if step.attrs.get("transA", 0) else "ab", "cb" if step.attrs.get("transB", 0) else "bc"]
    made = contract(step, terms, "ac")
    bias = step.layouts[2] if len(step.layouts) > 2 else None
    if bias is None:
        return made
    return laid(step, [(made, made.axes), (bias, aligned(bias, 2))])


def einsum(step: Step) -> Layout:
    terms, out = letters_of(str(step.attrs["equation"]), [len(step.shape(name)) for name in step.node.input])
    return contract(step, terms, out)


def attention(step: Step) -> Layout:
    """softmax(Q K^T) V over (N, heads, L, C) or (N, L, C)."""
    if len(step.given) != 3 or any(layout is None for layout in step.layouts[:3]):
        return unknown(step)
    stack = "nh" if len(step.before) == 4 else "n"
    return contract(step, [f"{stack}qc", f"{stack}kc", f"{stack}kv"], f"{stack}qv")


def contract(step: Step, terms: Sequence[str], out: str) -> Layout:
    """One letter an axis; letters that the result lacks are summed over."""
    operands = [(n, held, term) for n, held, term in zip(step.node.input, step.layouts, terms, strict=False) if held]
    if any(held.axes is None or len(held.axes) != len(term) for _, held, term in operands):
        return unknown(step)
    rows: list[tuple[Layout, Groups]] = []
    summed, left = dict[str, frozenset[int]](), frozenset[int]()
    for name, held, term in operands:
        axes = dict(zip(term, held.axes or (), strict=True))
        rows.append((held, tuple(axes.get(letter, ()) for letter in out)))
        summed[name] = frozenset(p for k, g in axes.items() if k not in out for p in places(g)) & held.solid
        left |= frozenset(p for k, g in axes.items() if k in out for p in places(g)) & held.solid
    every = frozenset[int]().union(*summed.values())
    step.onward(name for name, held, term in operands if _keeps(held, term, out))
    kept = [(_without(held, term, out), groups) for (name, held, term), (_, groups) in zip(operands, rows, strict=True)]
    asked = len(operands) == 2 and not every and any(not held.solid for _, held, _ in operands)
    made = laid(step, kept, "query" if asked else "")
    made = moved(made, [group or channels(n) for group, n in zip(made.axes or (), step.after, strict=True)])
    relation = bool(made.axes is not None and doubled(made.axes)) or bool(every & left)
    if not every and not relation:
        return made
    kind = "relation" if relation else "product" if len(operands) > 1 else "layer"
    look = step.look(kind, every - left, (), [name for name in summed if summed[name]])  # type: ignore[arg-type]
    if relation:
        return replace(made, own=made.own | look)
    return replace(made, looks=made.looks | look)


def _keeps(held: Layout, term: str, out: str) -> bool:
    return bool(held.solid & places(a for k, g in zip(term, held.axes or (), strict=True) if k in out for a in g))


def _without(held: Layout, term: str, out: str) -> Layout:
    """What is left of an operand once it is summed up."""
    axes = [group for letter, group in zip(term, held.axes or (), strict=True) if letter in out]
    here = places(atom for group in axes for atom in group)
    return replace(
        held,
        axes=tuple(axes),
        thin=frozenset((p, n) for p, n in held.thin if p in here),
        own=held.own if here & held.solid else NONE,
        mean="",
        flat=held.flat and bool(here & held.solid),
    )


STEPS: dict[str, Rule] = {
    **dict.fromkeys((*UNARY, "BatchNormalization", "Dropout", "LRN", "QuickGelu"), same),
    **dict.fromkeys(BROADCAST, broadcast),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(SLIDING, slide),
    **dict.fromkeys((*SOFTMAX, "LpNormalization"), softmax),
    **dict.fromkeys(("ConvTranspose", "DepthToSpace", "SpaceToDepth", "Pad"), grid),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("Split", "Slice"), cut),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), picked),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), layer_norm),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), whole_norm),
    **dict.fromkeys(("FusedGemm", "Gemm"), gemm),
    **dict.fromkeys(tuple(SPREADING), copies),
    **dict.fromkeys(("Shape", "Size"), lambda step: None),
    "Attention": attention,
    "Concat": concat,
    "Einsum": einsum,
    "Gather": gather,
    "MatMul": matmul,
    "Transpose": transpose,
}
