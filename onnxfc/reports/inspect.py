"""The report of an inspection, as text for people and as JSON for programs (``"schema": "onnxfc-inspect/1"``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxfc.errors import OnnxfcError
from onnxfc.reports.rewrite import amount, fit_lines, grid_rows, verdict_text
from onnxfc.reports.rows import native, row, size
from onnxfc.version import __version__

if TYPE_CHECKING:
    from onnxfc.geometry import Geometry
    from onnxfc.inspector import Cost, Inspection


SCHEMA = "onnxfc-inspect/1"


def text(seen: Inspection, verbose: bool = False) -> str:
    """All that was seen, to be understood at a glance."""
    return "\n".join(_lines(seen, verbose))


def _lines(seen: Inspection, verbose: bool) -> Iterator[str]:
    inputs = ", ".join(f"{name} {'x'.join(str(n or '?') for n in shape)}" for name, shape in seen.inputs)
    yield row("model", f"opset {seen.opset}, {amount(seen.parameters)} parameters, input {inputs or 'none'}")
    yield row("status", _status(seen))
    if seen.native_size:
        yield row("native size", native(seen.claim) if seen.claim else f"{size(seen.native_size)} px")
    yield from _heads(seen)
    yield from _stages(seen)
    yield from _geometry(seen)
    if seen.claim is not None:
        yield row("verdict", verdict_text(seen.claim, verbose))
        yield from grid_rows(seen.claim, verbose)
    if seen.cost is not None:
        whole = seen.geometry is not None and seen.geometry.whole_image
        yield row("cost" if whole else "cells", _cost(seen.cost, grid=_is_grid(seen), whole=whole))
        taken, stored = amount(seen.cost.activations, "B"), amount(seen.cost.weights, "B")
        yield row("memory", f"about {taken} for the tensors of that pass, {stored} for weights")
    yield from fit_lines(seen.fit, verbose)
    for refusal in seen.refusals if verbose else seen.refusals[:3]:
        yield row("refused", str(refusal))
    if not verbose and len(seen.refusals) > 3:
        yield row("", f"and {len(seen.refusals) - 3} more (-v shows all)")
    for note in seen.notes if verbose else ():
        yield row("note", str(note))


def _status(seen: Inspection) -> str:
    told = {
        "rewritable": "an original that `onnxfc rewrite` takes",
        "rewritten": "rewritten by onnxfc",
        "refused": "an original that `onnxfc rewrite` leaves alone",
    }
    return told[seen.status]


def _heads(seen: Inspection) -> Iterator[str]:
    after = {item.node: f"{item.before} ⇒ {item.after}" for item in seen.replacements}
    for head in seen.heads:
        planned = after.pop(head.node, "")
        shape = f"{head.operator} {head.inputs} → {head.outputs}, {amount(head.parameters)} parameters"
        yield row("FC layer", f"{head.node}: {shape}" + (f"; {planned}" if planned else ""))
    for node, planned in after.items():
        yield row("would become", f"{node}: {planned}")


def _stages(seen: Inspection) -> Iterator[str]:
    if not seen.stages:
        return
    rows = [("stride", "reads", "from", "native map", "last tensor")]
    for stage in seen.stages:
        reads = "x".join(map(str, stage.field))
        start = ", ".join(map(str, stage.start))
        rows.append(("x".join(stage.stride), f"{reads} px", start, size(stage.extent), stage.tensor))
    widths = [max(len(line[column]) for line in rows) for column in range(4)]
    for position, line in enumerate(rows):
        cells = [f"{cell:>{width}}" for cell, width in zip(line, widths, strict=False)]
        yield row("trunk" if not position else "", "  ".join([*cells, line[4]]))


def _geometry(seen: Inspection) -> Iterator[str]:
    found = seen.geometry
    if found is None:
        return
    yield from _places(seen, found)
    if found.fixed_size:
        yield row("image size", f"{size(found.fixed_size)} px alone")
        return
    steps = "" if set(found.size_step) == {1} else f", in steps of {size(found.size_step)} px; pad other images to one"
    yield row("image sizes", f"from {size(found.smallest_size)} px on{steps}")
    if found.halo is None:
        yield row("halo", "the whole image: an operator looks at all of it")
    else:
        yield row("halo", ", ".join(f"{a} px before and {b} px behind" for a, b in dict.fromkeys(found.halo)))


def _places(seen: Inspection, found: Geometry) -> Iterator[str]:
    if found.whole_image:
        yield row("score", "one for the whole image")
        return
    what = "cell" if _is_grid(seen) else "element"
    stride = "x".join(f"{s}/{p}" if p > 1 else str(s) for s, p in zip(found.stride, found.per, strict=True))
    yield row(what, f"every {stride} px; reads {size(found.field_size)} px from {_pair(found.field_start)} on")


def _pair(lengths: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, lengths))})" if len(set(lengths)) > 1 else str(lengths[0])


def _is_grid(seen: Inspection) -> bool:
    found = seen.geometry
    return found is not None and set(found.native_cells) == {1} and not found.whole_image


def _cost(cost: Cost, grid: bool, whole: bool) -> str:
    if whole:
        return f"{amount(cost.dense)} multiply-adds at {size(cost.size)} px"
    if not grid or cost.crops is None:
        what = "" if grid else " elements"
        return f"{size(cost.cells)}{what} at {size(cost.size)} px; {amount(cost.dense)} multiply-adds"
    count = 1
    for length in cost.cells:
        count *= length
    return (
        f"{size(cost.cells)} at {size(cost.size)} px; {amount(cost.dense)} multiply-adds in one pass, "
        f"{amount(cost.crops)} in {count} crops: {cost.speedup:.1f} times fewer"
    )


def _plain(found: Geometry) -> dict[str, Any]:
    """Without the closed forms behind it."""
    return {key: value for key, value in dataclasses.asdict(found).items() if key not in {"axes", "asks", "levels"}}


def error_as_json(error: OnnxfcError, path: Path) -> dict[str, Any]:
    """What kept a model from being looked at."""
    code = int(error.exit_code)
    return _document("error") | {"exit_code": code, "message": str(error), "path": str(path)}


def _document(status: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "version": __version__, "status": status}


def as_json(seen: Inspection) -> dict[str, Any]:
    """The same as data."""
    plain = {
        key: value
        for key, value in dataclasses.asdict(seen).items()
        if key not in {"path", "status", "geometry", "claim", "cost", "inputs", "nodes"}
    }
    found, cost = seen.geometry, seen.cost
    return _document(seen.status) | {
        "path": None if seen.path is None else str(seen.path),
        "inputs": [{"name": name, "shape": [n or None for n in shape]} for name, shape in seen.inputs],
        **plain,
        "geometry": None if found is None else _plain(found),
        "claim": None if seen.claim is None else dataclasses.asdict(seen.claim),
        "cost": None if cost is None else dataclasses.asdict(cost) | {"speedup": cost.speedup},
    }
