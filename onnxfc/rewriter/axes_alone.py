"""Axes of the image that are freed while others stay: where all cannot be, or where the outputs keep some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

from onnxfc.errors import Refusal
from onnxfc.rewriter.analysis import Analysis

Axes = tuple[str, ...]


class Done(Protocol):
    """What comes of other options; None where something is refused."""

    def __call__(self, **changes: Any) -> Analysis | None: ...


def free_alone(names: Sequence[str], but: Axes, done: Done) -> dict[Axes, Analysis]:
    """The axes of the image that can be freed while others stay, as many together as can be; what comes of each."""
    for some in _fewer_each(names):
        if found := {free: made for free in some if free != but and (made := done(free=free))}:
            return found
    return {}


def the_one(alone: Mapping[Axes, Analysis]) -> Analysis | None:
    """The only way, or the only one that gives sequences along what is free; None where there are several."""
    ways = [*alone.values()]
    ways = ways if len(ways) == 1 else [*filter(_gives_sequences, ways)]
    return ways[0] if len(ways) == 1 else None


def ways_of(alone: Mapping[Axes, Analysis]) -> str:
    """How these are asked for."""
    each = " or ".join(" ".join(f"--free {name}" for name in free) for free in alone)
    return f"{each} frees {'that axis' if len(next(iter(alone))) == 1 else 'these axes'} alone"


def along_kept(found: Analysis, names: Sequence[str], done: Done) -> Analysis | None:
    """Where every output keeps some axes of the image and pools the others: what comes of freeing those that it keeps,
    with the sequence as the output instead of windows of it."""
    shapes = [found.state.native[output.name].native for output in found.outputs if output.form == "map"]
    if len(shapes) < len(found.outputs) or any(sum(n > 1 for n in shape[1:]) < 2 for shape in shapes):
        return None
    for some in _fewer_each(names):
        made = {free: one for free in some if (one := done(free=free)) and _gives_sequences(one)}
        if made:
            free, one = next(iter(made.items()))
            why = f"the outputs are sequences along the {' and '.join(free)}"
            return with_axes_that_stay(one, "", why) if len(made) == 1 else None
    return None


def with_axes_that_stay(found: Analysis, node: str, why: str) -> Analysis:
    """Noted which axes of the image stay as they are, and why."""
    image = found.reading[0].as_input()
    fixed = zip(image.fixed, image.named(image.fixed), strict=True)
    stays = " and ".join(f"the {name} stays {image.shape[axis]} px" for axis, name in fixed)
    found.state.notes.append(Refusal("fixed-axis", node, f"{why}: {stays}"))
    return found


def _fewer_each(names: Sequence[str]) -> Iterator[list[Axes]]:
    """Some of the axes, fewer at each step."""
    for count in reversed(range(1, len(names))):
        yield [*combinations(names, count)]


def _gives_sequences(found: Analysis) -> bool:
    return all(output.form in ("features", "list") for output in found.outputs)
