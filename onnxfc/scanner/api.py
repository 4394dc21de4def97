"""scan(): the order of the steps."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxfc import errors
from onnxfc.claim.blame import Cause
from onnxfc.errors import UsageError, WriteError
from onnxfc.io.atomic_write import writing
from onnxfc.io.model_file import ModelFile
from onnxfc.scanner import identity
from onnxfc.scanner.chunk_store import ChunkStore, remove
from onnxfc.scanner.compare import Compared, compare
from onnxfc.scanner.job import CROPS, Frame, Job, Scoring, TileWorker, processors
from onnxfc.scanner.open_image import given
from onnxfc.scanner.options import ScanOptions
from onnxfc.scanner.outputs import Wanted, check_outputs, write_outputs
from onnxfc.scanner.picture import class_number
from onnxfc.scanner.placing import Placing
from onnxfc.scanner.plan import Axis, Plan, axes_of
from onnxfc.scanner.prepare import class_names, preparation
from onnxfc.scanner.scan_model import ScanModel
from onnxfc.scanner.score_map import Array, ArrayCells, ScoreMap
from onnxfc.scanner.source import OpenImage
from onnxfc.scanner.tile_size import memory_to_use, tile_bytes, tile_counts
from onnxfc.scanner.work import ClusterLost, Progress, run_here, run_on_dask
from onnxfc.version import __version__

Model = str | Path | bytes | onnx.ModelProto | ModelFile


@dataclass(frozen=True)
class Scan:
    """A map, and how it came about. ``uncovered``: pixels at the bottom and the right that no cell stands for;
    ``seconds``: in all, and in onnxruntime, by the tiles that are run at once (of this process)."""

    map: ScoreMap
    model: ScanModel = field(repr=False)
    job: Job = field(repr=False)
    uncovered: tuple[int, int]
    tiles_before: int
    seconds: tuple[float, float]
    compared: Compared | None = None
    vector: Array | None = None


def scan(
    model: Model,
    image: Any,
    out: str | Path | Sequence[str | Path] = (),
    *,
    options: ScanOptions | None = None,
    dask: Any = None,
    progress: Callable[[str], None] | None = None,
) -> ScoreMap:
    """The score map of an image of any size, tile by tile, each cell as one pass over the whole image would give it.

    ``model``: rewritten, or an original, which is rewritten and proven first. ``image``: a file, an array (H, W) or
    (H, W, bands), or anything with ``shape``, ``dtype`` and ``read(y0, y1, x0, x1)``. ``out``: files to write, by their
    ending .npy, .tif, .zarr, .png, .csv or .geojson. ``dask``: a Client or the address of a scheduler.

    Raises ReadError, UsageError, WriteError, NothingToRewrite or ProofFailed.

    >>> options = onnxfc.ScanOptions(scale=1 / 255, activation="softmax")
    >>> onnxfc.scan("digits-any.onnx", "fixtures/trained/canvas.png", "map.npy", options=options).shape
    (10, 37, 57)
    """
    return run_scan(model, image, out, options=options, dask=dask, progress=progress).map


def run_scan(
    model: Model,
    image: Any,
    out: str | Path | Sequence[str | Path] = (),
    *,
    options: ScanOptions | None = None,
    dask: Any = None,
    progress: Callable[[str], None] | None = None,
    keep: bool = True,
) -> Scan:
    """As :func:`scan`, with all that is known of it. ``keep``: the map is needed after its files are written."""
    began = time.perf_counter()
    errors.options("options", options, ScanOptions)
    options, say = options or ScanOptions(), progress or (lambda _: None)
    outs = _paths(out)
    check_outputs(outs, image, options.reduce is not None)
    image = given(image)
    opened = Frame(options.level).open(image)
    say("reading the model")
    made = ScanModel.open(model, options.output, options.size, options.prove)
    with _folder(outs) as folder, ChunkStore.alone(folder):
        job, seen = _job(made, model, image, opened, options, folder)
        notes = _notes(job, made, model, image)
        worker = job.worker(made, seen)
        before = _begun(job, notes, [] if options.reduce else outs, options.resume)
        try:
            _work(_portable(job, made) if dask is not None else job, worker, before, dask, say)
            done = _map(job, made, seen, notes)
            compared = compare(worker, done, options.compare) if options.compare else None
            seconds = worker.session.seconds / job.at_once
            del worker  # what its session holds is free for the writers
            say("writing")
            vector = None if options.reduce is None else done.reduce(options.reduce)
            kept = _written(outs, done, job.store, Wanted(options.top, options.threshold, vector), keep)
        except Exception as error:
            keeps = options.resume or (isinstance(error, ClusterLost) and bool(outs))
            if not keeps or not any(map(job.store.has, range(len(job.plan)))):
                remove(job.store.path)
            elif isinstance(error, ClusterLost):
                raise ClusterLost(f"{error}; --resume goes on where it ended") from error
            raise
    spent = time.perf_counter() - began, seconds
    return Scan(kept, made, job, _uncovered(job.plan, seen), before, spent, compared, vector)


def _paths(out: Any) -> list[Path]:
    items = [out] if isinstance(out, str | Path) or not isinstance(out, Iterable) else list(out)
    if not all(isinstance(item, str | Path) for item in items):
        raise UsageError(f"out: must be a path or several, (), if nothing is written, not {out!r}")
    return list(map(Path, items))


@contextmanager
def _folder(outs: list[Path]) -> Iterator[Path]:
    """Where the map is made: beside the first output, or in a folder that goes away."""
    if outs:
        yield Path(f"{os.path.realpath(outs[0])}.part")
        return
    with tempfile.TemporaryDirectory(prefix="onnxfc-") as made:
        yield Path(made) / "map.part"


def _job(
    made: ScanModel, model: Model, image: Any, opened: OpenImage, options: ScanOptions, folder: Path
) -> tuple[Job, OpenImage]:
    """The whole scan as data, and the image as it is scanned."""
    if made.elements and (options.exact == "crops" or options.compare):
        raise UsageError("the model's cells stand for single pixels of features; they have no crops to compare with")
    frame = _frame(made, opened, options)
    seen = frame.of(opened)
    prepared = preparation(made, seen, options)
    plan = _plan(made, seen, options, folder)
    names = class_names(made.metadata(), made.classes)
    classes = tuple(class_number(names, kind) for kind in options.classes) or None
    no_data = seen.no_data if options.no_data is None else options.no_data
    if frame.factor != 1 and no_data is not None:
        raise UsageError(f"the image's no-data ({no_data}) would be mixed with pixels by --resample; use a --level")
    scoring = Scoring(options.activation, classes, options.exact == "crops", no_data, seen.alpha)
    shape = (len(classes or names), *plan.grid)
    store = ChunkStore(folder, shape, (shape[0], *plan.count))
    whole = model if isinstance(model, str | Path) and not made.rewritten else b""
    token = os.urandom(8).hex()
    job = Job(token, whole, made.output.name, image, frame, prepared, scoring, plan, store, options.threads)
    job = replace(job, batch=options.batch, provider=options.provider)
    return replace(job, at_once=_at_once(job, made, options)), replace(seen, no_data=no_data)


def _frame(made: ScanModel, opened: OpenImage, options: ScanOptions) -> Frame:
    """Grown, where that is asked for, until the last crop ends where the image does."""
    frame = Frame(options.level, options.region, Fraction(options.resample or 1))
    if options.edge == "none":
        return frame
    geometry, size = made.geometry, frame.of(opened).size
    grown = []
    for k, have in enumerate(size):
        unit = math.lcm(geometry.size_step[k], geometry.period[k] if made.resizes else 1, geometry.stride[k])
        native = geometry.native_size[k]
        grown.append(native + max(0, -(-(have - native) // unit)) * unit)
    return replace(frame, size=(grown[0], grown[1]), edge=options.edge)


def _plan(made: ScanModel, seen: OpenImage, options: ScanOptions, folder: Path) -> Plan:
    """Which tiles: those of an earlier run that is resumed, whatever memory is free now. Raises UsageError where the
    model looks at the whole image, which does not fit into memory."""
    crops, context = options.exact == "crops", made.geometry.context
    whole = context and not crops and options.context == "whole"
    grids = _nodes(made, lambda cause: cause is Cause.GRID)
    if grids and not crops and not whole:
        raise UsageError(
            f"coordinates span the image ({grids}): in each tile they would begin anew; use --context whole"
        )
    axes = axes_of(made.geometry, seen.size, made.local_halo, elements=made.elements, whole=whole, even=made.resizes)
    memory = _memory(options)
    if whole:
        _must_fit(made, axes, memory)
        return Plan(axes, (axes[0].cells, axes[1].cells))
    if crops:
        axes = axes[0].of_crops(), axes[1].of_crops()
    if options.tile is None and options.resume and ChunkStore.begun(folder):
        _, rows, columns = ChunkStore.open(folder).chunk
        return Plan(axes, (rows, columns))
    if options.tile is not None:
        return Plan(axes, (min(options.tile, axes[0].cells), min(options.tile, axes[1].cells)))
    if crops:
        return Plan(axes, (axes[0].fitting(_CROPPED), axes[1].fitting(_CROPPED)))
    return Plan(axes, tile_counts(made, axes, memory, options.batch, seen.rows, context))


def _memory(options: ScanOptions) -> int:
    """In bytes."""
    return memory_to_use() if options.memory is None else options.memory * 10**6


def _at_once(job: Job, made: ScanModel, options: ScanOptions) -> int:
    """So many groups of tiles as memory has room for and processors are there; one where another device computes."""
    if options.provider:
        return 1
    size, batch = (made.claim.native_size, CROPS) if job.scoring.crops else (job.plan.size, job.batch)
    room = _memory(options) // tile_bytes(made, (size[0], size[1]), batch)
    return max(1, min(options.threads or processors(), -(-len(job.plan) // job.batch), room))


_CROPPED = 1024
"""Pixels a side from which crops are cut."""


def _must_fit(made: ScanModel, axes: tuple[Axis, Axis], memory: int) -> None:
    needs = tile_bytes(made, (axes[0].length, axes[1].length), 1)
    if needs > memory:
        tiles = "" if _nodes(made, lambda cause: cause is Cause.GRID) else _PER_TILE
        nodes = _nodes(made, lambda cause: not cause.local)
        raise UsageError(
            f"the model looks at the whole image ({nodes}), which in one pass needs about {needs / 1e6:.0f} MB where "
            f"--memory allows {memory / 1e6:.0f}; raise it{tiles}"
        )


_PER_TILE = ", or let the model look at each tile with --context per-tile"


def _nodes(made: ScanModel, blamed: Callable[[Cause], bool]) -> str:
    """The nodes that are to blame for such causes."""
    found = list(dict.fromkeys(item.node for item in made.claim.blames if blamed(item.cause)))
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _begun(job: Job, notes: dict[str, Any], outs: list[Path], resume: bool) -> int:
    """Make the store of the map, or take what an earlier run left; the number of tiles that it has."""
    store = job.store
    if resume and ChunkStore.begun(store.path):
        found = ChunkStore.open(store.path)
        if found.notes != notes or found != store:
            raise UsageError(f"{store.path}: is what another scan left; run without --resume, which begins anew")
        return sum(map(store.has, range(len(job.plan))))
    _check_room(store, outs)
    ChunkStore.create(store.path, store.shape, store.chunk, notes)
    return 0


def _check_room(store: ChunkStore, outs: list[Path]) -> None:
    """A full disk is told before the work, as far as it can be known."""
    size = 4 * math.prod(store.shape)
    large = [out for out in outs if out.suffix.lower() in {".npy", ".tif", ".tiff", ".zarr"}]
    zarrs = [out for out in large if out.suffix.lower() == ".zarr"]
    needs: dict[int, tuple[Path, int]] = {}
    for target in [store.path, *(out for out in large if out not in zarrs[:1])]:  # the first zarr is the store itself
        folder = Path(os.path.realpath(target)).parent
        with writing(target):
            disk = os.stat(folder).st_dev
        needs[disk] = folder, needs.get(disk, (folder, 0))[1] + size
    for folder, need in needs.values():
        if need > (free := shutil.disk_usage(folder).free):
            raise WriteError(f"{folder}: the map needs {-(-need // 10**6)} MB, {free // 10**6} are free there")


def _notes(job: Job, made: ScanModel, model: Model, image: Any) -> dict[str, Any]:
    """How the map was made: written beside its scores, and what a resumed scan must agree with."""
    down, across = job.plan.axes
    context = made.geometry.context and not job.scoring.crops
    found = {
        "onnxfc": __version__,
        "model": identity.of_model(model, made.file) | {"output": made.output.name, "verdict": made.claim.verdict},
        "image": identity.of_image(image) | {"level": job.frame.level, "region": job.frame.region},
        "resample": str(job.frame.factor),
        "edge": job.frame.edge,
        "pixels": asdict(job.preparation),
        "classes": job.scoring.classes,
        "activation": job.scoring.activation,
        "provider": job.provider or "cpu",
        "cells": "crops" if job.scoring.crops else "one pass",
        "context": ("whole" if down.whole else "per-tile") if context else "none",
        "no_data": None if job.scoring.no_data is None else str(job.scoring.no_data),
        "native_size": made.claim.native_size,
        "stride": (down.stride, across.stride),
        "per": (down.per, across.per),
        "tile": job.plan.count,
    }
    return dict(json.loads(json.dumps(found)))


def _work(job: Job, worker: TileWorker, before: int, dask: Any, say: Callable[[str], None]) -> None:
    numbers = [number for number in job.in_order(worker.image) if not job.store.has(number)]
    progress = Progress(len(job.plan), before, math.prod(axis.length for axis in job.plan.axes), say)
    if dask is None:
        run_here(worker, numbers, progress)
    else:
        run_on_dask(dask, job, numbers, progress)
    if not all(map(job.store.has, numbers)):
        raise WriteError(
            f"{job.store.path}: tiles are missing; give a folder that all machines share, and no other scan"
        )


def _portable(job: Job, made: ScanModel) -> Job:
    """For other processes: the model as a path that they see, or as its bytes."""
    image = os.path.realpath(job.image) if isinstance(job.image, str | Path) else job.image
    model = os.path.realpath(job.model) if job.model else made.file.loaded().SerializeToString()
    return replace(job, model=model, image=image, store=job.store.marked())


def _map(job: Job, made: ScanModel, seen: OpenImage, notes: dict[str, Any]) -> ScoreMap:
    names = class_names(made.metadata(), made.classes)
    kept = names if job.scoring.classes is None else tuple(names[k] for k in job.scoring.classes)
    placing = Placing(job.plan.axes, job.frame.corner, job.frame.factor)
    place = seen.georeference
    if place is not None:
        (down, across), (tall, wide) = placing.offset, placing.pitch
        place = place.moved(across, down).scaled(wide, tall)
    return ScoreMap(job.store, kept, placing, place, notes, seen)


def _written(outs: list[Path], done: ScoreMap, store: ChunkStore, wanted: Wanted, keep: bool) -> ScoreMap:
    """All files, and the map as they hold it, or in memory."""
    zarr = write_outputs(outs, done, store, wanted)
    if zarr:
        return replace(done, cells=replace(store, path=zarr))
    maps = [out for out in outs if out.suffix.lower() == ".npy" and wanted.vector is None]
    if maps:
        kept = ArrayCells(np.load(os.path.realpath(maps[0]), mmap_mode="r"))
    else:
        kept = ArrayCells(np.asarray(done) if keep else np.empty((0, 0, 0), np.float32))
    remove(store.path)
    return replace(done, cells=kept)


def _uncovered(plan: Plan, seen: OpenImage) -> tuple[int, int]:
    """Pixels behind the last crops, at the bottom and at the right."""
    ends = [min(axis.begin(axis.cells - 1) + axis.own, axis.length) for axis in plan.axes]
    down, across = (have - end for have, end in zip(seen.size, ends, strict=True))
    return down, across
