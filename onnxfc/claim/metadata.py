"""What makes a claim in the metadata unreadable: values of the wrong type, length or range. Whether it is true is
another matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfc.claim.claim import Boundary, Claim, ImageInput, Layer, Output


def damage_of(claim: Claim, forms: Iterable[str]) -> str | None:
    """The first thing in it that no rewrite could have written, or None; ``forms`` are those of outputs."""
    return next(_damages(claim, set(forms)), None)


def _damages(claim: Claim, forms: set[str]) -> Iterator[str]:
    if not _integers(claim.native_size, 1, 3) or min(claim.native_size) < 1:
        yield f"native_size is {claim.native_size!r}"
        return
    dims = len(claim.native_size)
    for name in ("stride", "size_step", *_OPTIONAL):
        value, least = getattr(claim, name), {"start": None, "slack": 0}.get(name, 1)
        if name in _OPTIONAL and value == ():
            continue
        if not _integers(value, dims, dims) or (least is not None and min(value) < least):
            yield f"{name} is {value!r}"
            return
    yield from _disagreements(claim, dims)
    yield from (f"input {image.name!r} is {image}" for image in claim.inputs if not _image(image, dims))
    yield from (f"boundary {item.original!r} is {item}" for item in claim.boundaries if not _boundary(item, dims))
    yield from (f"output {item.name!r} is {item}" for item in claim.outputs if not _output(item, dims, forms))
    yield from (f"layer {item.original!r} is {item}" for item in claim.layers if not _layer(item))


_OPTIONAL = ("period", "smallest_size", "start", "size", "slack")
"""Numbers of pixels on each axis that may be unknown."""


def _disagreements(claim: Claim, dims: int) -> Iterator[str]:
    if any(slack >= stride for slack, stride in zip(claim.slack, claim.stride, strict=False)):
        yield f"slack is {claim.slack!r}, not below the stride"
    pairs = isinstance(claim.halo, tuple) and all(_integers(pair, 2, 2) and min(pair) >= 0 for pair in claim.halo)
    if not pairs or len(claim.halo) not in (0, dims):
        yield f"halo is {claim.halo!r}"
    if claim.verdict not in ("exact", "approximate"):
        yield f"verdict is {claim.verdict!r}"
    if not isinstance(claim.blame, tuple) or not all(isinstance(item, str) for item in claim.blame):
        yield f"blame is {claim.blame!r}"


def _image(image: ImageInput, dims: int) -> bool:
    fits = isinstance(image.name, str) and _integers(image.shape, 1, 9) and min(image.shape) > 0
    return fits and _axes(image.spatial, dims, 1, len(image.shape))


def _boundary(item: Boundary, dims: int) -> bool:
    named = isinstance(item.original, str) and isinstance(item.rewritten, str)
    counted = all(_integers(value, dims, dims) and min(value) > 0 for value in (item.extent, item.step))
    return named and counted and _axes(item.spatial, dims, 1, 99) and _folded(item)


def _folded(item: Boundary) -> bool:
    """Whether each axis lies on one of the original's."""
    rows = item.folded
    if not isinstance(rows, tuple) or not all(isinstance(row, tuple) for row in rows):
        return False
    axes = tuple(axis for row in rows for axis in row)
    return not rows or (_axes(axes, len(axes), 0, len(axes)) and set(item.spatial) <= set(axes))


def _layer(item: Layer) -> bool:
    return isinstance(item.original, str) and isinstance(item.rewritten, str) and item.form in ("map", "global")


def _output(item: Output, dims: int, forms: set[str]) -> bool:
    if not isinstance(item.name, str) or item.form not in forms:
        return False
    if item.axes != () and not _axes(item.axes, dims, 0, 99):
        return False
    told = [value for value in (item.stride, item.per, item.start, item.size) if value != ()]
    if len(told) not in (0, 4) or (told and item.axes == ()):
        return False
    return all(_integers(value, dims, dims) for value in told) and (
        not told or min(*item.stride, *item.per, *item.size) > 0
    )


def _integers(value: Any, least: int, most: int) -> bool:
    numbers = isinstance(value, tuple) and all(type(item) is int for item in value)
    return numbers and least <= len(value) <= most


def _axes(value: Any, count: int, first: int, end: int) -> bool:
    return _integers(value, count, count) and len(set(value)) == count and all(first <= axis < end for axis in value)
