"""One node of a graph whose lengths are known in closed form: its inputs, and what it asks of the image's size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnxfc.graph.index import attributes
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.length import Dim, Length, Number, Sampled, Sizes, at, axes_of, factors_of, same, whole
from onnxfc.shapes.spec import Array, InferenceFailed, Shape, Spec

Dims = tuple[Dim, ...]
Values = npt.NDArray[Any]
"""Numbers and lengths, as an array of objects."""

FEW = 64
"""Values of at most so many elements have their closed forms followed."""

_FINE = 1 << 16
"""Fractions in a graph's values have no larger denominators."""


Kind = Literal["equal", "room", "still"]


@dataclass(frozen=True)
class Ask:
    """What a graph asks of the image's size.

    ``equal``: two lengths must be equal. ``room``: a length must be so large at least. ``still``: what is cut off or
    added before a map must be as natively; else the map begins at another place.
    """

    kind: Kind
    length: Dim
    other: Dim

    @property
    def axes(self) -> frozenset[int]:
        return axes_of(self.length) | axes_of(self.other)

    def holds(self, sizes: Sizes) -> Any:
        length, other = at(self.length, sizes), at(self.other, sizes)
        return length >= other if self.kind == "room" else length == other


class Known(Protocol):
    """What is known of the tensors before a node."""

    inference: Inference
    specs: Mapping[str, Spec]
    probes: Sequence[Sizes]

    def dims(self, name: str) -> Dims | None: ...

    def values(self, name: str) -> Values | None: ...


class NodeCall:
    """A node, the closed forms of its inputs, and the specs at the probes of what it makes."""

    def __init__(self, known: Known, node: onnx.NodeProto) -> None:
        self.known = known
        self.node = node
        self.made = [known.specs.get(name) if name else None for name in node.output]
        self.asks: list[Ask] = []

    @cached_property
    def attrs(self) -> Mapping[str, Any]:
        return attributes(self.node)

    def ints(self, name: str, count: int, default: int) -> list[int]:
        """An attribute of ``count`` numbers."""
        return list(self.attrs.get(name) or [default] * count)

    def given(self, k: int) -> bool:
        return k < len(self.node.input) and bool(self.node.input[k])

    @property
    def native(self) -> Sizes:
        return self.known.probes[0]

    @property
    def inputs(self) -> list[int]:
        """The places of the inputs that are given."""
        return [k for k, name in enumerate(self.node.input) if name]

    def spec(self, k: int) -> Spec | None:
        return self.known.specs.get(self.node.input[k]) if self.given(k) else None

    def dims(self, k: int) -> Dims | None:
        return self.known.dims(self.node.input[k]) if self.given(k) else None

    def values(self, k: int) -> Values | None:
        return self.known.values(self.node.input[k]) if self.given(k) else None

    def moving(self, k: int) -> bool:
        """Whether the elements of an input may follow the image."""
        values = self.values(k)
        if values is None:
            return (spec := self.spec(k)) is None or spec.constant is None
        return any(isinstance(item, Length) for item in values.flat)

    def numbers(self, k: int) -> list[int] | None:
        """The elements of an input; None where they are not constant."""
        values = self.values(k)
        return None if values is None or self.moving(k) else [int(item) for item in values.flat]

    def of_integers(self, output: int) -> bool:
        spec = self.made[output]
        return spec is not None and np.dtype(helper.tensor_dtype_to_np_dtype(spec.dtype)).kind in "iu"

    def ask(self, kind: Kind, length: Dim, other: Dim) -> None:
        self.asks.append(Ask(kind, length, other))

    def bond(self, one: Dim, other: Dim) -> None:
        """Ask for two lengths to be equal, where they are not so at every size."""
        if not same(one, other):
            self.ask("equal", one, other)

    def bond_side_by_side(self, end_to_end: int | None = None) -> None:
        """Ask for dims of the inputs to stay equal that are so natively, counted from behind, and not 1 at every size.

        ``end_to_end``: the axis (negative) on which they are laid one behind the other.
        """
        found = [(spec.native, dims) for k in self.inputs if (spec := self.spec(k)) and (dims := self.dims(k))]
        for axis in range(-1, -1 - max((len(dims) for _, dims in found), default=0), -1):
            there = [(shape[axis], dims[axis]) for shape, dims in found if len(dims) >= -axis and dims[axis] != 1]
            for length, dim in there[1:] if axis != end_to_end else ():
                if length == there[0][0]:
                    self.bond(there[0][1], dim)

    # Where there is no rule

    def like_inputs(self, shapes: tuple[Shape, ...]) -> Dims | None:
        """The dims of the inputs that are as long at all probes; None where one has no such dim, or several.

        Several may be, where they are asked to be equal.
        """
        first, dims = self.spec(0), self.dims(0)
        if first is not None and first.shapes == shapes and dims is not None:
            return dims
        table: dict[tuple[int, ...], dict[Dim, None]] = {}
        for k in self.inputs:
            spec, found = self.spec(k), self.dims(k)
            if spec is not None and spec.shapes is not None and found is not None:
                for row, dim in zip(zip(*spec.shapes, strict=True), found, strict=True):
                    table.setdefault(row, {})[dim] = None
        rows = list(zip(*shapes, strict=True))
        options = [list(table.get(row, ())) if len(set(row)) > 1 else [row[0]] for row in rows]
        if all(len(each) == 1 or (each and self.asks) for each in options):
            return tuple(each[0] for each in options)
        return None

    def sampled_dims(self, output: int) -> Dims | None:
        """The dims of an output as shape inference tells them for each size."""
        spec = self.made[output]
        rows = [] if spec is None or spec.shapes is None else list(zip(*spec.shapes, strict=True))
        found = self._sampled(output, rows, lambda found: found.shapes[0] if found.shapes else ())
        pairs = zip(rows, found or (), strict=False)
        return None if found is None else tuple(dim if len(set(row)) > 1 else row[0] for row, dim in pairs)

    def sampled_values(self, output: int) -> Values | None:
        """The elements of an output, whole numbers, as they are computed for each size."""
        spec = self.made[output]
        if spec is None or spec.values is None or spec.values[0].dtype.kind not in "iub":
            return None
        rows = list(zip(*(value.ravel().tolist() for value in spec.values), strict=True))
        found = self._sampled(output, rows, lambda found: found.values[0].ravel().tolist() if found.values else ())
        return None if found is None else objects(found).reshape(spec.values[0].shape)

    def _sampled(
        self, output: int, rows: Sequence[Sequence[int]], tell: Callable[[Spec], Sequence[int]]
    ) -> Dims | None:
        """Numbers that are ``rows`` at the probes, by what ``tell`` says of the output at a size; -1 if it has none."""
        ask = self._ask
        if ask is None:
            return None

        def number(k: int, sizes: Sizes) -> int:
            found = ask(sizes)[output]
            numbers = tell(found) if found is not None else ()
            return int(numbers[k]) if k < len(numbers) else -1

        atoms = [
            Sampled(f"{self.node.output[output]}[{k}]", partial(number, k), self._lengths, self._rates(row))
            for k, row in enumerate(rows)
        ]
        return tuple(Length(frozenset([(atom, 1)])) for atom in atoms)

    def _rates(self, row: Sequence[int]) -> Mapping[int, Fraction]:
        """By how much numbers that are ``row`` at the probes grow with each axis: one that explains them alone."""
        first, *others = self.known.probes
        axes = frozenset[int]().union(*(length.axes for length in self._lengths))
        for axis in sorted(axes):
            pairs = zip(row[1:], others, strict=False)
            found = {Fraction(int(item) - int(row[0]), sizes[axis] - first[axis] or 1) for item, sizes in pairs}
            if len(found) == 1:
                return dict.fromkeys(axes, Fraction(0)) | {axis: found.pop()}
        return {}

    @cached_property
    def _lengths(self) -> tuple[Length, ...]:
        """All lengths that the node's inputs hold."""
        found = [item for k in self.inputs for item in self.dims(k) or ()]
        found += [item for k in self.inputs if (values := self.values(k)) is not None for item in values.flat]
        return tuple(dict.fromkeys(item for item in found if isinstance(item, Length)))

    @cached_property
    def _ask(self) -> Callable[[Sizes], Sequence[Spec | None]] | None:
        """Inference of this node alone, for inputs as they are at a size; None where those are not known."""
        node, inference = self.node, self.known.inference
        given = [(self.spec(k), self.dims(k), self.values(k)) for k in range(len(node.input))]
        if any(spec is None or dims is None for name, (spec, dims, _) in zip(node.input, given, strict=True) if name):
            return None
        known: dict[tuple[int, ...], Sequence[Spec | None]] = {}

        def told(sizes: Sizes) -> Sequence[Spec | None]:
            key = tuple(sizes.values())
            if key not in known:
                try:
                    known[key] = inference.infer(node, [_spec_at(*item, sizes) for item in given], 1)
                except InferenceFailed:
                    known[key] = [None] * len(node.output)
            return known[key]

        return told


def _spec_at(spec: Spec | None, dims: Dims | None, values: Values | None, sizes: Sizes) -> Spec | None:
    """An input at one size."""
    if spec is None or dims is None:
        return None
    shape = tuple(int(at(dim, sizes)) for dim in dims)
    if values is None:
        return Spec(spec.dtype, (shape,), None if spec.constant is None else (spec.constant,))
    found = [at(item, sizes) for item in values.flat]
    numbers = [float(item) if isinstance(item, Fraction) else item for item in found]
    kind = helper.tensor_dtype_to_np_dtype(spec.dtype)
    return Spec(spec.dtype, (shape,), (np.array(numbers, kind).reshape(shape),))


def objects(items: Iterable[Number]) -> Values:
    """Numbers and lengths in a row."""
    found = list(items)
    made = np.empty(len(found), object)
    made[:] = found
    return made


def exact(array: Array) -> Values | None:
    """A constant as exact numbers; None where it holds others than small fractions, or too many."""
    if array.size > FEW or array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        return None
    found = [whole(Fraction(float(item))) if array.dtype.kind == "f" else int(item) for item in array.flat]
    fine = all(not isinstance(item, Fraction) or item.denominator <= _FINE for item in found)
    return objects(found).reshape(array.shape) if fine else None


def apart(dims: Sequence[Dim]) -> list[Dim]:
    """The same, with rows and columns that are laid into one axis beside each other."""
    found: list[Dim] = []
    for dim in dims:
        if not isinstance(dim, Length) or len(dim.axes) < 2:
            found.append(dim)
            continue
        number, parts = factors_of([dim])
        found += [int(number), *parts.elements()] if number.denominator == 1 else [dim]
    return found
