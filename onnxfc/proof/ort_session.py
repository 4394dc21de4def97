"""onnxruntime sessions over opened models, whose weights stay on disk.

onnxruntime maps the referenced bytes from the source file (offsets need no alignment). It is told not to
pre-pack weights, which would copy each of them into memory; so sessions over one file share its pages. For the
same reason a large model's Convs are not laid out in blocks of channels: the rewritten VGG-16 of 553 MB, whose FC
layers are Convs, took 4.3 s and 1.7 GB to load with that, 0.02 s and next to nothing without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxfc.errors import ReadError
from onnxfc.io.byte_source import FileSource, Span
from onnxfc.io.external_data import (
    LARGE,
    NUMPY_TYPES,
    all_tensors,
    inline,
    is_external,
    is_private,
    is_text,
    other_tensors,
    raw_size,
    set_entries,
)
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.providers import Engine, fallen, told

if TYPE_CHECKING:
    import onnxruntime as ort


LARGE_MODEL = 100_000_000
"""Bytes of weights from which on no copy of them is made: onnxruntime is kept from its last level of optimisation,
which changes the layout of Convs. Below that the copy is cheap, and Convs run somewhat faster with it."""

_WITHOUT = ["QDQPropagationTransformer", "ConstantSharing"]
"""The first moves a QuantizeLinear ahead of a Reshape or a Transpose, and so quantises tensors that are outputs before
it. The second makes one of equal weights, over which a BatchNormalization in training mode writes its running
statistics: each run would give something else."""
_PLAIN = Engine()
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "pthread_create failed, error code: 12")
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"


def version() -> str:
    """onnxruntime's."""
    import onnxruntime as ort

    return str(ort.__version__)


def session(
    model: ModelFile,
    *,
    extra_outputs: Sequence[str] = (),
    engine: Engine = _PLAIN,
    optimize: bool = True,
    pattern: bool = True,
) -> ort.InferenceSession:
    """A session for ``model``, on the CPU or ``engine``'s provider; tensors in ``extra_outputs`` become outputs too.

    ``optimize``: False computes the graph as it is written: the same sums in another order. ``pattern``: from its
    second run on it takes memory in one piece, besides what the first took. Raises ReadError where onnxruntime does
    not take the model, leaves nodes to another provider, or a file of the model has changed.
    """
    import onnxruntime as ort  # not before it is needed: what only reads and writes files does without

    whose = model.path or "the model in memory"
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    have = {output.name for output in proto.graph.output}
    new = [name for name in dict.fromkeys(extra_outputs) if name not in have]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    where = engine.prepare(options)
    options.enable_mem_pattern = pattern
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Threads that wait would spin: with a small model for most of the time that its proof takes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    lost = engine.as_written and version().startswith("1.23.")  # which gives nothing for some outputs without kernels
    options.graph_optimization_level = _level(proto, optimize and not lost)
    held = _attach(proto, model, options)
    try:
        made = ort.InferenceSession(proto.SerializeToString(), options, disabled_optimizers=_WITHOUT, **where)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        if no_memory(error):
            raise MemoryError(one_line(error)) from error
        reason = _left_over(model, extra_outputs, engine, optimize) or one_line(error)
        raise ReadError(f"{whose}: onnxruntime cannot load it: {reason}") from error
    if wrong := engine.made(made):
        raise ReadError(f"{whose}: {wrong}")
    made._onnxfc_held = held  # memory that the session reads from lives as long as the session
    return made


def not_from_disk(model: ModelFile) -> str:
    """Why onnxruntime does not load the file itself, "" if it does: sessions here get small tensors with the model,
    where the file may have shapes and axes beside it, which nothing reads in time."""
    import onnxruntime as ort

    own = (item for item in all_tensors(model.proto) if is_external(item) and not is_private(item))
    if model.path is None or all((raw_size(item) or 0) >= LARGE for item in own):
        return ""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(os.fspath(model.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        return one_line(error)
    return ""


def _left_over(model: ModelFile, extra_outputs: Sequence[str], engine: Engine, optimize: bool) -> str:
    """The nodes that a provider leaves to the CPU, where that kept a session from being made."""
    if not engine.closed or engine.provider is None:
        return ""
    try:
        nodes = fallen(
            session(model, extra_outputs=extra_outputs, engine=replace(engine, strict=False), optimize=optimize)
        )
    except ReadError:
        return ""
    allowed = f"--provider {engine.provider.asked}:fallback=allow lets them run on the CPU"
    return f"{len(nodes)} nodes are not for {engine.provider.name}: {told(nodes)}; {allowed}" if nodes else ""


def _level(proto: onnx.ModelProto, optimize: bool) -> ort.GraphOptimizationLevel:
    import onnxruntime as ort

    if not optimize:
        return ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    large = sum(raw_size(tensor) or 0 for tensor in proto.graph.initializer) >= LARGE_MODEL
    return ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED if large else ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def _attach(proto: onnx.ModelProto, model: ModelFile, options: ort.SessionOptions) -> list[ort.OrtValue]:
    """Let every tensor of ``proto`` that is elsewhere be found by onnxruntime."""
    import onnxruntime as ort

    for tensor in other_tensors(proto):
        if (span := model.store.span(tensor)) is not None:
            inline(tensor, span)  # onnxruntime does not look into subgraphs for external data
    spans = [(t, span) for t in proto.graph.initializer if (span := model.store.span(t)) is not None]
    files = {
        s.source.path for _, s in spans if isinstance(s.source, FileSource) and is_text(os.path.realpath(s.source.path))
    }
    real = {path: os.path.realpath(path) for path in files}
    folder = os.path.commonpath([os.path.dirname(path) for path in real.values()]) if real else ""
    held: dict[str, ort.OrtValue] = {}
    for tensor, span in spans:
        if len(span) < LARGE:
            inline(tensor, span)  # it may be a shape, which onnxruntime has to see
        elif isinstance(span.source, FileSource) and span.source.path in real:
            span.source.verify()
            _point(tensor, os.path.relpath(real[span.source.path], folder), span)
        elif tensor.data_type not in NUMPY_TYPES:
            inline(tensor, span)  # of 4 bits, say: onnxruntime makes values of numpy's own types alone
        else:
            array = np.require(model.array(tensor), requirements=["C", "ALIGNED"])
            held[tensor.name] = ort.OrtValue.ortvalue_from_numpy(array)
            _point(tensor, "memory", span)
    if folder:
        options.add_session_config_entry(_FOLDER_KEY, folder)
    if held:
        options.add_external_initializers(list(held), list(held.values()))
        _share(proto.graph, held, options)
    return list(held.values())


def _share(graph: onnx.GraphProto, held: dict[str, ort.OrtValue], options: ort.SessionOptions) -> None:
    """Let the session compute on Conv weights where they are; a copy of each lives only while it is loaded.

    Not on others: where onnxruntime moves a Transpose it turns an initializer under its own name.
    """
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return  # a subgraph may read them, too
    other = {value.name for value in graph.output}
    for node in graph.node:
        plain = node.op_type == "Conv" and not node.domain
        other.update(name for i, name in enumerate(node.input) if not plain or i != 1)
    for name, value in held.items():
        if name not in other:
            options.add_initializer(name, value)


def _point(tensor: onnx.TensorProto, location: str, span: Span) -> None:
    set_entries(tensor, [("location", location), ("offset", span.offset), ("length", len(span))])


def one_line(error: Exception) -> str:
    """What onnxruntime says over many lines, without its code and where in its source that stands."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    stopped = _STOPPED.search(text)
    return (f"{stopped[1]} {stopped[2]} stops: {_SOURCE.sub('', stopped[3])}" if stopped else text)[:300]


_STOPPED = re.compile(r"^Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: (.*)$")
_SOURCE = re.compile(r"^\S+:\d+ \S+\([^)]*\) ")
"""A line of its source, and the function there."""


def no_memory(error: Exception) -> bool:
    """Whether an error of onnxruntime is that memory ran out, which has no type of its own."""
    return any(told in str(error) for told in _NO_MEMORY)
