"""The files that a map is written to, by their ending. Each appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.io.atomic_write import NewFile, writing
from onnxfc.io.external_data import Store
from onnxfc.io.save import check_target
from onnxfc.scanner.chunk_store import ChunkStore, remove
from onnxfc.scanner.open_image import needs
from onnxfc.scanner.score_map import Array, Picked, ScoreMap

_TILE, _MANY, _SCORES = 256, 16, 1 << 22
"""Pixels a side of a TIFF's tiles; classes, and scores, that are written together."""


@dataclass(frozen=True)
class Wanted:
    """What lists show. ``vector``: what the map is reduced to, which is written in its place."""

    top: int
    threshold: float | None
    vector: Array | None = None


def check_outputs(outs: Sequence[Path], image: Any, reduced: bool) -> None:
    """Before any work is done. Raises UsageError, WriteError or ReadError (where a package is missing)."""
    for out in outs:
        ending = out.suffix.lower()
        known = _VECTORS if reduced else _WRITERS.keys() | {".zarr"}
        if ending not in known:
            what = "one vector is" if reduced else "maps are"
            raise UsageError(f"{out}: {what} written to {', '.join(sorted(known))}; choose such a name")
        for module in _PACKAGES.get(ending, ()):
            needs(module, out)
        if isinstance(image, str | Path) and os.path.realpath(image) == os.path.realpath(out):
            raise UsageError(f"{out}: is the image, which is never changed; choose another output")
        if ending == ".zarr":
            ChunkStore.check(Path(os.path.realpath(out)))
        else:
            check_target(out, Store(None, None))
    if len({os.path.realpath(out) for out in outs}) < len(outs):
        raise UsageError("two outputs are the same file; give each its own name")


def write_outputs(outs: Sequence[Path], made: ScoreMap, store: ChunkStore, wanted: Wanted) -> Path | None:
    """All of them, or none where one cannot be written: first under no name, or one of its own. ``store`` becomes the
    first zarr, whose path is given back. Raises WriteError."""
    zarrs = [Path(os.path.realpath(out)) for out in outs if out.suffix.lower() == ".zarr"]
    moved = [target for target in zarrs[:1] if os.stat(target.parent).st_dev == os.stat(store.path).st_dev]
    with ExitStack() as stack:
        ready = [stack.enter_context(_file(out, made, wanted)) for out in outs if out.suffix.lower() != ".zarr"]
        ready += [stack.enter_context(store.copied(target)) for target in zarrs[len(moved) :]]
        for publish in ready:
            publish()
    if moved:
        store.move(moved[0])
    elif zarrs:
        remove(store.path)
    return zarrs[0] if zarrs else None


@contextmanager
def _file(out: Path, made: ScoreMap, wanted: Wanted) -> Iterator[Callable[[], None]]:
    """One that is written, and what gives it its name."""
    target = Path(os.path.realpath(out))
    with writing(target), NewFile(target.parent) as new:
        raw = io.FileIO(os.dup(new.fd), "wb")
        raw.name = str(target)  # tifffile asks for it, and a file that has none yet answers with its number
        with _Plain(raw) as file:
            _WRITERS[out.suffix.lower()](file, made, wanted)
        new.prepare(target, durable=target.exists())
        yield partial(_publish, new, target)


def _publish(new: NewFile, target: Path) -> None:
    with writing(target):
        new.publish(target)


class _Plain(io.BufferedWriter):
    """Written by Python alone: numpy, which writes into descriptors, does not tell why that failed."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _npy(file: BinaryIO, made: ScoreMap, wanted: Wanted) -> None:
    """The header that numpy writes, then the vector, or each class's rows at their place."""
    shape = made.shape if wanted.vector is None else wanted.vector.shape
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    if wanted.vector is not None:
        file.write(np.ascontiguousarray(wanted.vector, "<f4").data)
        return
    begin, (classes, rows, columns) = file.tell(), made.shape
    for first in range(0, classes, _MANY):
        for top, piece in made.pieces(slice(first, first + _MANY), _SCORES):
            for k, scores in enumerate(np.ascontiguousarray(piece, "<f4"), first):
                file.seek(begin + 4 * columns * (k * rows + top))
                file.write(scores.data)


def _tif(file: BinaryIO, made: ScoreMap, wanted: Wanted) -> None:
    """A tiled BigTIFF, a band for each class, with the names of the classes as GDAL knows them."""
    tifffile = import_module("tifffile")
    tags: list[Any] = [] if made.georeference is None else list(made.georeference.tags())
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{k}" role="description">{escape(escape(name))}</Item>'  # twice, as GDAL does
        for k, name in enumerate(made.classes)
    )
    xml = f"<GDALMetadata>{items}</GDALMetadata>"
    tags += [(42112, "s", 0, xml.encode("utf-8"), True), (42113, "s", 0, "nan", True)]
    with tifffile.TiffWriter(file, bigtiff=True) as tiff:
        tiff.write(
            _tiles(made),
            shape=made.shape,
            dtype=np.float32,
            tile=(_TILE, _TILE),
            photometric="minisblack",
            planarconfig="separate" if made.shape[0] > 1 else None,
            description=json.dumps(made.notes),
            metadata=None,
            extratags=tags,
        )


def _tiles(made: ScoreMap) -> Iterator[Array]:
    classes, rows, columns = made.shape
    for k in range(classes):
        for top in range(0, rows, _TILE):
            band = made.cells.read(slice(k, k + 1), slice(top, min(rows, top + _TILE)), slice(None))[0]
            for left in range(0, columns, _TILE):
                tile = np.full((_TILE, _TILE), np.nan, np.float32)
                piece = band[:, left : left + _TILE]
                tile[: piece.shape[0], : piece.shape[1]] = piece
                yield tile


def _png(file: BinaryIO, made: ScoreMap, wanted: Wanted) -> None:
    info = import_module("PIL.PngImagePlugin").PngInfo()
    info.add_text("onnxfc", json.dumps(made.notes))
    made.overlay().save(file, "PNG", pnginfo=info)


def _csv(file: BinaryIO, made: ScoreMap, wanted: Wanted) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    if wanted.vector is not None:
        rows.writerow(["class", "score"])
        rows.writerows([name, f"{score:.7g}"] for name, score in zip(made.classes, wanted.vector, strict=True))
    else:
        place = ["map_x", "map_y"] if made.georeference else []
        rows.writerow(["class", "score", "row", "column", "x", "y", "width", "height", *place])
        for row, column, kind, score in _picked(made, wanted):
            (y, x), (height, width) = made.box(row, column).start, made.box(row, column).size
            middle = [f"{item:.10g}" for item in _middle(made, row, column)] if made.georeference else []
            rows.writerow([made.classes[kind], f"{score:.7g}", row, column, x, y, width, height, *middle])
    text.detach()


def _picked(made: ScoreMap, wanted: Wanted) -> Picked:
    return made.top(wanted.top, wanted.threshold)


def _middle(made: ScoreMap, row: float, column: float) -> tuple[float, float]:
    assert made.georeference is not None
    return made.georeference.place(column + 0.5, row + 0.5)


def _geojson(file: BinaryIO, made: ScoreMap, wanted: Wanted) -> None:
    """A polygon for each cell's crop: in map coordinates, or in pixels with y downward."""
    document: dict[str, Any] = {"type": "FeatureCollection", "onnxfc": made.notes}
    if made.georeference is not None and made.georeference.epsg:
        name = f"urn:ogc:def:crs:EPSG::{made.georeference.epsg}"
        document["crs"] = {"type": "name", "properties": {"name": name}}
    document["features"] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_corners(made, row, column)]},
            "properties": {"class": made.classes[kind], "score": float(f"{score:.7g}"), "row": row, "column": column},
        }
        for row, column, kind, score in _picked(made, wanted)
    ]
    file.write(json.dumps(document).encode("utf-8"))


def _corners(made: ScoreMap, row: int, column: int) -> list[list[float]]:
    """Of a cell's crop, closed."""
    box = made.box(row, column)
    (top, left), (bottom, right) = box.start, box.stop
    places = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    place = made.georeference
    if place is None:
        return [[float(x), float(y)] for x, y in places]
    among = made.placing.among_cells
    return [list(place.place(among(x, 1), among(y, 0))) for x, y in places]


_WRITERS: dict[str, Callable[[BinaryIO, ScoreMap, Wanted], None]] = {
    ".npy": _npy,
    ".tif": _tif,
    ".tiff": _tif,
    ".png": _png,
    ".csv": _csv,
    ".geojson": _geojson,
}
_VECTORS = {".npy", ".csv"}
_PACKAGES = {".tif": ("tifffile",), ".tiff": ("tifffile",), ".png": ("PIL",)}
