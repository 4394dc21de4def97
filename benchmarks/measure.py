"""What the benchmarks share: multiply-adds from the graph, fair timing, running ``onnxfc rewrite``."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime as ort
from onnx import helper

ROOT = Path(__file__).resolve().parents[1]
SMALL = 1024  # elements; larger initializers say nothing about shapes

Shapes = dict[str, tuple[int, ...]]


def _skeleton(path: Path) -> onnx.ModelProto:
    """The model without its large weights: these become inputs of the same shape."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    inputs = {i.name for i in graph.input}
    kept = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            kept.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    small = onnx.GraphProto(initializer=kept)
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(small.initializer)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def shapes_at(path: Path, image: Sequence[int]) -> tuple[onnx.ModelProto, Shapes]:
    """The skeleton of the model and the shape of every tensor, for a first input of shape ``image``."""
    model = _skeleton(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, image, strict=True):
        dim.dim_value = size
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = model.graph
    shapes: Shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shape = value.type.tensor_type.shape
        if all(d.HasField("dim_value") for d in shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in shape.dim)
    return model, shapes


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-adds of one node: Conv, ConvTranspose, Gemm and MatMul count, all others are free."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "MatMul":
        return math.prod(result) * first[-1]
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(result) * first[0 if transposed else 1]


def macs(path: Path, image: Sequence[int]) -> int:
    """Multiply-adds of one run on an input of shape ``image``."""
    model, shapes = shapes_at(path, image)
    return sum(node_macs(node, shapes) for node in model.graph.node)


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def optimised_nodes(path: Path) -> int:
    """Nodes that onnxruntime's optimiser leaves at its default level."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return len(onnx.load(target, load_external_data=False).graph.node)


def medians(
    tasks: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each task; they take turns in changing order, so that all suffer alike from a busy machine."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for count in range(rounds):
        start = count % len(names)
        for name in [*names[start:], *names[:start]]:
            task = tasks[name]
            begin = clock()
            task()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rewrite(source: Path, target: Path, *options: str, batch: bool = True) -> None:
    """``onnxfc rewrite`` as a user calls it, unproven; ``batch``: with a free batch, unless there are other options."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "onnxfc", "rewrite", str(source), str(target)]
    command += ["--no-check", "-q", *(options or (["--dynamic-batch"] if batch else []))]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def exported(folder: Path, model: str, exporter: str, batch: bool = True) -> Path:
    """The export of a torchvision ``model``, ``batch``: with a free one; made where it is missing (needs torch)."""
    path = folder / f"{model}.{exporter}{'.batch' if batch else ''}.onnx"
    if not path.exists():
        script = ROOT / "benchmarks" / "export_torchvision.py"
        command = [sys.executable, str(script), "--out", str(folder), "--models", model]
        command += ["--exporter", exporter, *(["--dynamic-batch"] if batch else [])]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return path


def native_arguments(description: str | None) -> argparse.Namespace:
    """What benchmarks at the native size are told; ``description``: of the script, whose first line its help shows."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    parser.add_argument("--models", nargs="+", default=["alexnet", "vgg16", "resnet18"])
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), default="torchscript")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--native", type=int, default=224, help="native size of the models in pixels")
    parser.add_argument("--rounds", type=int, default=20, help="rounds at batch 1; fewer at larger batches")
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime; 0: its own choice")
    return parser.parse_args()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, columns aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def render(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([render(lines[0]), rule, *(render(line) for line in lines[1:])])
