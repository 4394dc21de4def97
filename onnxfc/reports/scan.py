"""What a scan did, as text and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxfc.errors import OnnxfcError
from onnxfc.reports.rewrite import share_of
from onnxfc.reports.rows import row, size
from onnxfc.version import __version__

if TYPE_CHECKING:
    from onnxfc.scanner.api import Scan


def text(done: Scan, outs: Sequence[Path]) -> str:
    """For a person."""
    return "\n".join(row(name, told) for name, told in _lines(done, outs))


def _lines(done: Scan, outs: Sequence[Path]) -> Iterator[tuple[str, str]]:
    job, claim, image = done.job, done.model.claim, done.map.image
    (height, width), (classes, rows, columns) = image.size, job.store.shape
    how = "rewritten on the way, " if done.model.rewritten else ""
    yield "image", f"{height}x{width} px, bands: {image.bands}, {image.source.dtype}"
    yield "model", f"{how}verdict {claim.verdict}, native size {size(claim.native_size)} px, stride {_stride(done)} px"
    yield "pixels", job.preparation.text
    yield "map", f"{rows}x{columns} cells, classes: {classes}"
    yield "tiles", _tiles(done)
    yield "not covered", f"{done.uncovered[0]} px at the bottom, {done.uncovered[1]} px at the right"
    if done.map.notes["context"] == "per-tile":
        yield "context", "the model looks at each tile where it would look at the whole image"
    if done.compared is not None:
        found = done.compared
        off = f"differ by up to {share_of(found.largest)} of the score range, median {share_of(found.median)}"
        same = f", same top class in {found.same:.0%}" if classes > 1 else ""
        yield "crops", f"cells {off}{same} ({found.cells} cells)"
    if done.vector is not None:
        best = sorted(zip(map(float, done.vector), done.map.classes, strict=True), reverse=True)[:5]
        yield "best", ", ".join(f"{name}: {score:.4g}" for score, name in best)
    within = f", in onnxruntime {done.seconds[1]:.1f} s" if done.seconds[1] else ""  # of other machines it is not known
    yield "time", f"{done.seconds[0]:.1f} s{within}"
    yield "written", ", ".join(map(str, outs))


def _tiles(done: Scan) -> str:
    plan = done.job.plan
    before = f", {done.tiles_before} of them from before" if done.tiles_before else ""
    what = "crops, cut from " if done.job.scoring.crops else ""
    return f"{what}{len(plan)} of {size(plan.size)} px{before}"


def _stride(done: Scan) -> str:
    return "x".join(f"{pitch:g}" for pitch in done.map.placing.pitch)


def error_as_json(error: OnnxfcError) -> dict[str, Any]:
    """What kept an image from being scanned."""
    return _document("error") | {"exit_code": int(error.exit_code), "message": str(error)}


def _document(status: str) -> dict[str, Any]:
    return {"schema": "onnxfc-scan/1", "version": __version__, "status": status}


def as_json(done: Scan, outs: Sequence[Path]) -> dict[str, Any]:
    """For programs."""
    return _document("done") | {
        "outputs": list(map(str, outs)),
        "map": {"shape": done.job.store.shape, "classes": done.map.classes},
        "tiles": {"count": len(done.job.plan), "from_before": done.tiles_before, "size": done.job.plan.size},
        "uncovered": done.uncovered,
        "compared": None if done.compared is None else asdict(done.compared),
        "vector": None if done.vector is None else list(map(float, done.vector)),
        "seconds": done.seconds,
        "how": done.map.notes,
    }
