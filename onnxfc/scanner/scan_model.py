"""A rewritten model that is run on tiles: its input, the output that is a map, its session."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfc.claim.claim import Claim, ImageInput, Output
from onnxfc.claim.scannable import against_scan, maps
from onnxfc.errors import NothingToRewrite, ReadError, UsageError
from onnxfc.geometry import Geometry, halo_of
from onnxfc.graph.index import Graph
from onnxfc.graph.op_kinds import RESAMPLING
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import ort_session
from onnxfc.proof.providers import Engine, Provider
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.scanner.plan import Halo
from onnxfc.shapes.memory import pass_bytes
from onnxfc.shapes.model_shapes import Shapes

Array = NDArray[Any]


@dataclass(frozen=True)
class ScanModel:
    """A rewritten model. ``output``: the map that is scanned; ``rewritten``: on the way, from an original."""

    file: ModelFile
    claim: Claim
    output: Output
    rewritten: bool

    @classmethod
    def open(
        cls,
        source: str | Path | bytes | onnx.ModelProto | ModelFile,
        output: str | None = None,
        size: tuple[int, ...] | None = None,
        prove: bool = True,
    ) -> ScanModel:
        """A rewritten model, or an original, which is rewritten and proven first. ``size``: its native size.

        Raises ReadError, UsageError, NothingToRewrite or ProofFailed.
        """
        file = source if isinstance(source, ModelFile) else ModelFile.open(source)
        claim = Claim.from_metadata({item.key: item.value for item in file.proto.metadata_props})
        if claim is not None:
            return cls(file, claim, _output(claim, file, output), False)
        try:
            done = rewrite(file, options=RewriteOptions(dynamic_batch=True, size=size), prove=prove)
        except NothingToRewrite:  # some hold for one batch only
            done = rewrite(file, options=RewriteOptions(size=size), prove=prove)
        return cls(done.file, done.claim, _output(done.claim, done.file, output), True)

    @property
    def image(self) -> ImageInput:
        """The input."""
        return self.claim.inputs[0]

    @cached_property
    def _alone(self) -> Claim:
        """The claim of a model with no other output: outputs may lie on different grids."""
        if len(self.claim.outputs) == 1:
            return self.claim
        return replace(self.claim, outputs=(self.output,), slack=())

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.file.proto)

    @cached_property
    def _asked(self) -> Shapes:
        """Asked again and again while a tile's size is sought."""
        return Shapes(self.file)

    @cached_property
    def geometry(self) -> Geometry:
        """Its cells and pixels."""
        return Geometry.of_claim(self._alone, self._asked)

    @property
    def elements(self) -> bool:
        """Whether a cell stands for its own pixels, not for a crop."""
        return self.output.form in {"features", "activation"}

    @property
    def local_halo(self) -> Halo:
        """What a tile needs around it, operators that look at the whole image aside."""
        return self.geometry.halo or halo_of(self._alone)

    @property
    def resizes(self) -> bool:
        """Whether a map may be resized to the size of another one."""
        return any(node.op_type in RESAMPLING for node in self.file.proto.graph.node)

    @property
    def channels(self) -> int:
        """Bands that it takes."""
        shape, spatial = self.image.of_samples
        kept = [n for axis, n in enumerate(shape) if axis and axis not in spatial]
        return math.prod(kept)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What its input is made of."""
        [info] = [item for item in self.file.proto.graph.input if item.name == self.image.name]
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))

    @cached_property
    def fixed_batch(self) -> int | None:
        """Images that it takes at once; None where it takes any number."""
        [info] = [item for item in self.file.proto.graph.input if item.name == self.image.name]
        return int(info.type.tensor_type.shape.dim[0].dim_value) or None if self.image.batched else 1

    @cached_property
    def classes(self) -> int:
        """Scores of a cell. Some models drop the batch, which is 1 then."""
        shape = self._shapes(self.claim.native_size)[self.output.name]
        return math.prod(n for axis, n in enumerate(shape) if axis not in self.output.axes) // self.image.batch

    def metadata(self) -> dict[str, str]:
        """What the model says besides."""
        return {item.key: item.value for item in self.file.proto.metadata_props}

    def _shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        shapes = self._asked.at(self.claim.image_shapes(size))
        if shapes is None:
            raise ReadError(f"the model does not take an image of {'x'.join(map(str, size))} px")
        return shapes

    def pass_bytes(self, size: tuple[int, int]) -> int:
        """Memory that one pass over an image of this size needs, about: its tensors while they are needed."""
        return pass_bytes(self._graph.nodes, self._shapes(size), [self.image.name])

    def session(self, threads: int = 0, provider: str = "") -> TileSession:
        """To run it. Raises UsageError where the provider cannot be used here."""
        return TileSession(self, Engine(threads, Provider.parse(provider).found() if provider else None, strict=True))


def _output(claim: Claim, file: ModelFile, name: str | None) -> Output:
    """The map that is asked for, or the first. Raises UsageError where scan does not take the model."""
    if reason := against_scan(claim, file.proto.graph):
        raise UsageError(reason)
    named = [item for item in maps(claim) if name in (None, item.name)]
    if not named:
        raise UsageError(f"--output {name}: is no map of scores; give {' or '.join(item.name for item in maps(claim))}")
    return named[0]


class TileSession:
    """An onnxruntime session, which several threads may use; ``seconds``: all of them in it so far."""

    def __init__(self, model: ScanModel, engine: Engine) -> None:
        self._model = model
        self.seconds, self._lock = 0.0, threading.Lock()
        self._session = ort_session.session(model.file, engine=engine, pattern=False)
        if model.fixed_batch is not None and model.fixed_batch > 1:
            self._check_rows(model.fixed_batch)

    def _check_rows(self, count: int) -> None:
        """Raises UsageError where the rows of a fixed batch are frames of one image, say, and not images alone."""
        made = self._model
        rows = np.random.default_rng(0).random((2, count, made.channels, *made.claim.native_size))
        rows[1, 0] = rows[0, 0]
        one, other = (self.run(some) for some in (rows * (255 if made.dtype.kind in "iu" else 1)).astype(made.dtype))
        if len(one) < count or np.abs(one[0] - other[0]).max() > 1e-3 * np.abs(one[0] - one[1]).max():
            raise UsageError(f"the model takes {count} images that belong together, as frames do; scan gives it one")

    def run(self, tiles: Array) -> Array:
        """Scores (n, classes, gH, gW) of tiles (n, bands, h, w). Raises ReadError where onnxruntime does not."""
        image, output = self._model.image, self._model.output
        feed = self._laid(tiles, image)
        began = time.perf_counter()
        try:
            [found] = self._session.run([output.name], {image.name: feed})
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ReadError(f"onnxruntime failed on a tile: {ort_session.one_line(error)}") from error
        with self._lock:
            self.seconds += time.perf_counter() - began
        moved = np.moveaxis(np.asarray(found), output.axes, (-2, -1))
        rows = math.gcd(moved.size, len(feed)) if image.batched else 1
        return moved.reshape(rows, -1, *moved.shape[-2:])[: len(tiles)].astype(np.float32, copy=False)

    def _laid(self, tiles: Array, image: ImageInput) -> Array:
        """As the model's input lies, as many as it takes."""
        fixed = self._model.fixed_batch
        if fixed is not None and len(tiles) < fixed:
            tiles = np.concatenate([tiles, *[tiles[-1:]] * (fixed - len(tiles))])
        shape, spatial = image.of_samples
        bands = [n for axis, n in enumerate(shape) if axis and axis not in spatial]  # of frames, say, or none
        laid = np.moveaxis(tiles.reshape(len(tiles), *bands, *tiles.shape[2:]), (-2, -1), spatial)
        return np.ascontiguousarray(laid if image.batched else laid[0])
