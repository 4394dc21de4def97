"""What sums over places, or weighs them against each other: pools, Softmax, norms, FC layers, products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from onnxfc.analysis.elementwise import same, together
from onnxfc.analysis.flow import Kind, Rule, Step, unknown
from onnxfc.analysis.layouts import NONE, Layout, aligned, moved, places, resized
from onnxfc.graph.einsum_equation import letters_of
from onnxfc.graph.op_kinds import ARG, GEMMS, GLOBAL_POOLS, LAYER_NORMS, MAP_NORMS, REDUCTIONS, SOFTMAX
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
    made = pooled(step, held, [step.axis], "pool", keep=top or bool(step.attrs.get("keepdims", 1)))
    return resized(made, step.after) if top else made


def pooled(step: Step, held: Layout, axes: Sequence[int], kind: Kind, keep: bool) -> Layout:
    """Without the places of some axes, which are left with one or go. Rows of what relates places stay places."""
    assert held.axes is not None
    name, every = step.node.input[0], places(atom for axis in axes for atom in held.axes[axis])
    rest = [group for axis, group in enumerate(held.axes) if axis not in axes]
    left = places(atom for group in rest for atom in group) & held.solid
    if not every:
        step.onward(name)
        return moved(held, _without(held, axes, keep))
    made = replace(
        moved(held, _without(held, axes, keep, every - left)),
        own=held.own if left else NONE,
        flat=held.flat and bool(left),
    )
    if every & left:
        step.onward(name)
        return replace(made, own=made.own | step.look("relation", every - left, axes, [name]))
    looks = held.looks | step.look(kind, every - left, axes, [name])
    return replace(made, thin=_thinned(step, made, every), looks=looks)


def _thinned(step: Step, made: Layout, gone: frozenset[int]) -> frozenset[tuple[int, str]]:
    """Which axes hold one place of a pool, and of which: those that it left with extent 1 are its own now."""
    kept = places(atom for group in made.axes or () for atom in group) & gone
    return frozenset(item for item in made.thin if item[0] not in gone) | {(place, step.name) for place in kept}


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
    """Weights that sum up to 1."""
    held = step.data
    return unknown(step) if held is None else _weighed(step, held, step.along)


def layer_norm(step: Step) -> Layout:
    held = step.data
    return unknown(step) if held is None else _weighed(step, held, range(step.axis, len(step.before)))


def _weighed(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    assert held.axes is not None
    name, here = step.node.input[0], places(atom for axis in axes for atom in held.axes[axis]) & held.solid
    if not here:
        step.onward(name)
        return held
    return replace(held, own=held.own | step.look("weights", here, axes, [name]))


def whole_norm(step: Step) -> Layout:
    """Statistics of the whole map: context in any case."""
    held = step.data
    if held is None:
        return unknown(step)
    if held.solid:
        step.look("norm", held.solid, range(2, len(step.before)), [step.node.input[0]])
        step.leave()
    return replace(held, own=NONE if held.solid else held.own)


# Products


def matmul(step: Step) -> Layout:
    ranks = [len(step.shape(name)) for name in step.node.input]
    fixed = {name for name in step.node.input if name not in step.flow.layouts} - step.flow.graph.overridable
    if len(step.given) == 1 and min(ranks) > 1 and any(step.flow.native[name].factor is not None for name in fixed):
        return same(step)  # a multiple of it, element by element
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
    inputs = zip(step.node.input, step.layouts, terms, strict=False)
    operands = [_Operand(name, held, term, out) for name, held, term in inputs if held is not None]
    if not all(operand.fits for operand in operands):
        return unknown(step)
    every = NO_PLACE.union(*(operand.summed for operand in operands))
    left = NO_PLACE.union(*(operand.left.solid for operand in operands))
    step.onward(*(operand.name for operand in operands if operand.left.solid))
    asks = len(operands) == 2 and not every and any(not operand.held.solid for operand in operands)
    made = together(step, [(operand.left, operand.left.axes) for operand in operands], "query" if asks else "")
    made = moved(made, [group or channels(n) for group, n in zip(made.axes or (), step.after, strict=True)])
    if every & left or (made.axes is not None and doubled(made.axes)):
        look = step.look("relation", every - left, (), _summed_up(operands))
        return replace(made, own=made.own | look)
    if not every:
        return made
    look = step.look("product" if len(operands) > 1 else "layer", every - left, (), _summed_up(operands))
    return replace(made, looks=made.looks | look)


NO_PLACE = frozenset[int]()


class _Operand:
    """One input of a contraction that is computed from the image, and the letters of its axes."""

    def __init__(self, name: str, held: Layout, term: str, out: str) -> None:
        self.name, self.held, self._term, self._out = name, held, term, out
        self.fits = held.axes is not None and len(held.axes) == len(term)

    @cached_property
    def summed(self) -> frozenset[int]:
        """Its places that the result lacks."""
        return _summed(self.held, self._term, self._out)

    @cached_property
    def left(self) -> Layout:
        """What is left of it once it is summed up."""
        return _left_of(self.held, self._term, self._out)


def _summed_up(operands: Sequence[_Operand]) -> list[str]:
    return [operand.name for operand in operands if operand.summed]


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
    return replace(held, axes=groups, thin=thin, own=held.own if stays else NONE, flat=held.flat and stays)


REDUCING: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(GLOBAL_POOLS, global_pool),
    **dict.fromkeys((*ARG, "TopK"), picked),
    **dict.fromkeys((*SOFTMAX, "LpNormalization"), softmax),
    **dict.fromkeys(LAYER_NORMS, layer_norm),
    **dict.fromkeys(MAP_NORMS, whole_norm),
    **dict.fromkeys(GEMMS, gemm),
    "Attention": attention,
    "Einsum": einsum,
    "MatMul": matmul,
}
