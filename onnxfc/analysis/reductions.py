"""What sums over places, or weighs them against each other: pools, Softmax, norms, FC layers, products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfc.analysis.elementwise import together
from onnxfc.analysis.flow import Kind, Rule, Step, unknown
from onnxfc.analysis.layouts import NONE, Layout, aligned, moved, places, resized
from onnxfc.graph.einsum_equation import letters_of
from onnxfc.graph.op_kinds import MEANS, REDUCTIONS, SOFTMAX
from onnxfc.layout.axes import Group, channels, doubled


def reduce(step: Step) -> Layout:
    held = step.data
    if held is None:
        return unknown(step)
    axes = step.axes()
    if not axes:
        axes = [] if step.attrs.get("noop_with_empty_axes", 0) else list(range(len(step.before)))
    return pooled(step, held, axes, "pool", keep=bool(step.attrs.get("keepdims", 1)))


def global_pool(step: Step) -> Layout:
    held = step.data
    return unknown(step) if held is None else pooled(step, held, range(2, len(step.before)), "pool", keep=True)


def picked(step: Step) -> Layout:
    """ArgMax, ArgMin and TopK along an axis."""
    held, top = step.data, step.op_type == "TopK"
    if held is None:
        return unknown(step)
    made = pooled(step, held, [step.axis(-1 if top else 0)], "pool", keep=top or bool(step.attrs.get("keepdims", 1)))
    return resized(made, step.after) if top else made


def pooled(step: Step, held: Layout, axes: Sequence[int], kind: Kind, keep: bool) -> Layout:
    """Without the places of some axes, which are left with one or go. Rows of what relates places stay places."""
    assert held.axes is not None
    name, every = step.node.input[0], places(atom for axis in axes for atom in held.axes[axis])
    rest = [group for axis, group in enumerate(held.axes) if axis not in axes]
    left = places(atom for group in rest for atom in group) & held.solid
    if not every:
        step.onward(name)
        return replace(moved(held, _without(held, axes, keep)), mean="")
    relation = bool(every & left)
    look = step.look("relation" if relation else kind, every - left, axes, [name])
    alone = all(atom.kind == "space" for axis in axes for atom in held.axes[axis])
    made = replace(
        moved(held, _without(held, axes, keep, every - left)),
        own=held.own if left else NONE,
        mean=name if step.op_type in MEANS and alone and every >= held.solid else "",
        flat=held.flat and bool(left),
    )
    if relation:
        step.onward(name)
        return replace(made, own=made.own | look)
    kept = places(atom for group in made.axes or () for atom in group) & every
    thin = frozenset((place, other) for place, other in held.thin if place not in every)
    return replace(made, thin=thin | {(place, step.name) for place in kept}, looks=held.looks | look)


def _without(held: Layout, axes: Sequence[int], keep: bool, thin: frozenset[int] = frozenset()) -> list[Group]:
    """The axes without some, or with these of extent 1: of a place, where they were that alone."""
    made: list[Group] = []
    for axis, group in enumerate(held.axes or ()):
        if axis not in axes:
            made.append(group)
        elif keep:
            made.append((replace(group[0], length=1),) if len(group) == 1 and places(group) & thin else ())
    return made


def softmax(step: Step) -> Layout:
    """Weights that sum up to 1. Before operator set 13 all axes from its own on together."""
    flat = step.opset < 13 and step.op_type in SOFTMAX
    held, axis = step.data, step.axis(1 if flat else -1)
    return unknown(step) if held is None else _weighed(step, held, range(axis, len(step.before) if flat else axis + 1))


def layer_norm(step: Step) -> Layout:
    held = step.data
    return unknown(step) if held is None else _weighed(step, held, range(step.axis(-1), len(step.before)))


def _weighed(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    assert held.axes is not None
    name, here = step.node.input[0], places(atom for axis in axes for atom in held.axes[axis]) & held.solid
    if not here:
        step.onward(name)
        return replace(held, mean="")
    return replace(held, own=held.own | step.look("weights", here, axes, [name]), mean="")


def whole_norm(step: Step) -> Layout:
    """Statistics of the whole map: context in any case."""
    held = step.data
    if held is None:
        return unknown(step)
    if held.solid:
        step.look("norm", held.solid, range(2, len(step.before)), [step.node.input[0]])
        step.leave()
    return replace(held, own=NONE if held.solid else held.own, mean="")


# Products


def matmul(step: Step) -> Layout:
    ranks = [len(step.shape(name)) for name in step.node.input]
    stack = "".join(chr(ord("d") + place) for place in range(max(*ranks, 2) - 2))
    terms = [
        stack[len(stack) - (rank - 2) :] + ends if rank > 1 else "b"
        for rank, ends in zip(ranks, ("ab", "bc"), strict=True)
    ]
    out = stack + "".join(letter for letter, rank in zip("ac", ranks, strict=True) if rank > 1)
    return contract(step, terms, out)


def gemm(step: Step) -> Layout:
    """As MatMul, turned, and a bias."""
    terms = ["ba" if step.attrs.get("transA", 0) else "ab", "cb" if step.attrs.get("transB", 0) else "bc"]
    made = contract(step, terms, "ac")
    bias = step.layouts[2] if len(step.layouts) > 2 else None
    return made if bias is None else together(step, [(made, made.axes), (bias, aligned(bias, 2))])


def einsum(step: Step) -> Layout:
    terms, out = letters_of(str(step.attrs["equation"]), [len(step.shape(name)) for name in step.node.input])
    return contract(step, terms, out)


def attention(step: Step) -> Layout:
    """softmax(Q K^T) V over (N, heads, L, C) or (N, L, C)."""
    if len(step.given) != 3 or None in step.layouts[:3]:
        return unknown(step)
    stack = "nh" if len(step.before) == 4 else "n"
    return contract(step, [f"{stack}qc", f"{stack}kc", f"{stack}kv"], f"{stack}qv")


def contract(step: Step, terms: Sequence[str], out: str) -> Layout:
    """One letter an axis; letters that the result lacks are summed over."""
    inputs = [item for item in zip(step.node.input, step.layouts, terms, strict=False) if item[1] is not None]
    operands = [(name, held, term) for name, held, term in inputs if held is not None]
    if any(held.axes is None or len(held.axes) != len(term) for _, held, term in operands):
        return unknown(step)
    kept = [_left_of(held, term, out) for _, held, term in operands]
    summed = {name: _summed(held, term, out) for name, held, term in operands}
    every = frozenset[int]().union(*summed.values())
    left = frozenset[int]().union(*(held.solid for held in kept))
    step.onward(*(name for (name, _, _), held in zip(operands, kept, strict=True) if held.solid))
    asks = len(operands) == 2 and not every and any(not held.solid for _, held, _ in operands)
    made = together(step, [(held, held.axes) for held in kept], "query" if asks else "")
    made = moved(made, [group or channels(n) for group, n in zip(made.axes or (), step.after, strict=True)])
    relation = bool(every & left) or (made.axes is not None and doubled(made.axes))
    if not every and not relation:
        return made
    kind: Kind = "relation" if relation else "product" if len(operands) > 1 else "layer"
    look = step.look(kind, every - left, (), [name for name, gone in summed.items() if gone])
    return replace(made, own=made.own | look) if relation else replace(made, looks=made.looks | look)


def _summed(held: Layout, term: str, out: str) -> frozenset[int]:
    """The places of an operand that the result lacks."""
    groups = [group for letter, group in zip(term, held.axes or (), strict=True) if letter not in out]
    return places(atom for group in groups for atom in group) & held.solid


def _left_of(held: Layout, term: str, out: str) -> Layout:
    """What is left of an operand once it is summed up, on the axes of the result."""
    axes = dict(zip(term, held.axes or (), strict=True))
    groups = tuple(axes.get(letter, ()) for letter in out)
    here = places(atom for group in groups for atom in group)
    stays = bool(here & held.solid)
    thin = frozenset((place, name) for place, name in held.thin if place in here)
    return replace(held, axes=groups, thin=thin, own=held.own if stays else NONE, mean="", flat=held.flat and stays)


REDUCING: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), picked),
    **dict.fromkeys((*SOFTMAX, "LpNormalization"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), layer_norm),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), whole_norm),
    **dict.fromkeys(("FusedGemm", "Gemm"), gemm),
    "Attention": attention,
    "Einsum": einsum,
    "MatMul": matmul,
}
