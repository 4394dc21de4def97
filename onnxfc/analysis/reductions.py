"""What sums over places, or weighs them against each other: pools, Softmax, norms, FC layers, products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxfc.analysis.elementwise import same, together
from onnxfc.analysis.flow import Kind, Rule, Step, on_data, unknown
from onnxfc.analysis.layouts import NONE, Layout, aligned, moved, places, resized
from onnxfc.graph.einsum_equation import letters_of, matmul_letters
from onnxfc.graph.op_kinds import ARG, GEMMS, GLOBAL_POOLS, LAYER_NORMS, MAP_NORMS, REDUCTIONS, ROW_NORMS, SOFTMAX
from onnxfc.layout.axes import Group, channels, doubled


def reduce(step: Step, held: Layout) -> Layout:
    axes = step.axes()
    if not axes:
        axes = [] if step.attrs.get("noop_with_empty_axes", 0) else list(range(len(step.before)))
    return pooled(step, held, axes, "pool", keep=bool(step.attrs.get("keepdims", 1)))


def global_pool(step: Step, held: Layout) -> Layout:
    return pooled(step, held, range(2, len(step.before)), "pool", keep=True)


def picked(step: Step, held: Layout) -> Layout:
    """ArgMax, ArgMin and TopK along an axis."""
    top = step.op_type == "TopK"
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


def weighed(step: Step, held: Layout) -> Layout:
    """Weights that sum up to 1, or a norm, over some axes."""
    assert held.axes is not None
    axes = range(step.axis, len(step.before)) if step.op_type in LAYER_NORMS else step.along
    name, here = step.node.input[0], places(atom for axis in axes for atom in held.axes[axis]) & held.solid
    if not here:
        step.onward(name)
        return held
    if step.op_type == "LpNormalization":
        step.flow.norms[step.name] = here
    return replace(held, own=held.own | step.look("weights", here, axes, [name]))


def whole_norm(step: Step, held: Layout) -> Layout:
    """Statistics of the whole map: context in any case."""
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
    return contract(step, *matmul_letters(ranks))


def gemm(step: Step) -> Layout:
    """As MatMul, turned, and a bias."""
    terms = ["ba" if step.attrs.get("transA", 0) else "ab", "cb" if step.attrs.get("transB", 0) else "bc"]
    made = contract(step, terms, "ac")
    bias = step.layouts[2] if len(step.layouts) > 2 else None
    return made if bias is None else together(step, [(made, made.axes), (bias, aligned(bias, 2))])


def einsum(step: Step) -> Layout:
    if "equation" not in step.attrs:  # one of another domain
        return unknown(step)
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
    operands = [_Factor.of(name, held, term, out) for name, held, term in inputs if held is not None]
    known = [operand for operand in operands if operand is not None]
    return _contracted(step, known) if len(known) == len(operands) else unknown(step)


def _contracted(step: Step, operands: Sequence[_Factor]) -> Layout:
    """What the operands make of each other place by place, and what looks at those that are summed up."""
    made, summed = _beside(step, operands), [operand for operand in operands if operand.summed]
    every = frozenset[int]().union(*(operand.summed for operand in summed))
    left = frozenset[int]().union(*(operand.left.solid for operand in operands))
    relates = bool(every & left) or (made.axes is not None and doubled(made.axes))
    if not every and not relates:
        return made
    kind: Kind = "relation" if relates else "product" if len(operands) > 1 else "layer"
    look = step.look(kind, every - left, (), [operand.name for operand in summed])
    return replace(made, own=made.own | look) if relates else replace(made, looks=made.looks | look)


def _beside(step: Step, operands: Sequence[_Factor]) -> Layout:
    """What is left of the operands, on each other. Without a sum one may ask each place of the other."""
    step.onward(*(operand.name for operand in operands if operand.left.solid))
    none = not any(operand.summed for operand in operands)
    asks = len(operands) == 2 and none and any(not operand.solid for operand in operands)
    made = together(step, [(operand.left, operand.left.axes) for operand in operands], "query" if asks else "")
    return moved(made, [group or channels(n) for group, n in zip(made.axes or (), step.after, strict=True)])


@dataclass(frozen=True)
class _Factor:
    """An input of a contraction that is computed from the image: its places, those of them that the result lacks, and
    what is ``left`` of it once they are summed up, on the axes of the result."""

    name: str
    solid: frozenset[int]
    summed: frozenset[int]
    left: Layout

    @staticmethod
    def of(name: str, held: Layout, term: str, out: str) -> _Factor | None:
        """None where it has not one axis for each letter."""
        if held.axes is None or len(held.axes) != len(term):
            return None
        axes = dict(zip(term, held.axes, strict=True))
        groups = tuple(axes.get(letter, ()) for letter in out)
        gone = [group for letter, group in zip(term, held.axes, strict=True) if letter not in out]
        here, summed = (places(atom for group in part for atom in group) for part in (groups, gone))
        stays = bool(here & held.solid)
        thin = frozenset((place, look) for place, look in held.thin if place in here)
        own = held.own if stays else NONE
        left = replace(held, axes=groups, thin=thin, own=own, flat=held.flat and stays)
        return _Factor(name, held.solid, summed & held.solid, left)


REDUCING: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, on_data(reduce)),
    **dict.fromkeys(GLOBAL_POOLS, on_data(global_pool)),
    **dict.fromkeys((*ARG, "TopK"), on_data(picked)),
    **dict.fromkeys((*SOFTMAX, *ROW_NORMS), on_data(weighed)),
    **dict.fromkeys(MAP_NORMS, on_data(whole_norm)),
    **dict.fromkeys(GEMMS, gemm),
    "Attention": attention,
    "Einsum": einsum,
    "MatMul": matmul,
}
