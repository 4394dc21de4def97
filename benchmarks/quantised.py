"""Quantised networks: one dense pass against float's, and against the quantised crops that it replaces.

    python benchmarks/quantised.py --exports exports

Each model as it is, and as onnxruntime quantises it: static (QDQ, uint8 activations, int8 weights per channel), the
same with scores that nothing quantises (``scores``), and dynamic. All take turns in one run; ``--processor`` counts
processor seconds, which other work on the machine disturbs less. Beside them stands which layers onnxruntime makes of
the original and of the rewritten model. A second table has the last FC layer alone, whose scores nothing quantises.
Missing exports are made first, which needs torch and torchvision.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np
import onnx
import onnxruntime as ort
from dense_vs_crops import crops
from onnx import parser
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_WATCHED = ("QLinearConv", "ConvInteger", "QGemm", "DynamicQuantizeMatMul", "Conv", "FusedConv", "Gemm")


class _Images(CalibrationDataReader):
    def __init__(self, name: str, native: int) -> None:
        rng = np.random.default_rng(0)
        images = rng.standard_normal((4, 1, 3, native, native)).astype(np.float32)
        self.feeds = iter([{name: image} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantised(original: Path, folder: Path, native: int) -> dict[str, Path]:
    """The original and its quantised versions."""
    prepared, name = folder / "prepared.onnx", onnx.load(original).graph.input[0].name
    quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
    found = {"float": original, **{form: folder / f"{form}.onnx" for form in ("static", "scores", "dynamic")}}
    for form in ("static", "scores"):
        extra = {"OpTypesToExcludeOutputQuantization": ["Gemm"]} if form == "scores" else {}
        images = _Images(name, native)
        quantize_static(str(prepared), str(found[form]), images, per_channel=True, extra_options=extra)
    quantize_dynamic(str(prepared), str(found["dynamic"]), per_channel=True, weight_type=QuantType.QInt8)
    return found


def layers(path: Path) -> str:
    """Which layers onnxruntime runs, and how many of each."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in _WATCHED if kinds[kind])


def last_layer(features: int, outputs: int, cells: int, args: argparse.Namespace) -> list[str]:
    """The last FC layer alone, whose scores nothing quantises: a Gemm, which onnxruntime runs as a QGemm, a row for
    each cell; the same between Transposes of a map (rows); a Conv, which it leaves in floats; ConvInteger and what
    scales its sums."""
    rng = np.random.default_rng(0)
    side = int(cells**0.5)
    common = f"""<int8[{outputs},{features}] w, float[{outputs}] ws, int8[{outputs}] wz, int32[{outputs}] b,
        float[{outputs}] bs, int32[{outputs}] bz, float xs = {{0.02}}, uint8 xz = {{128}}>"""
    given = f"uint8[{side * side},{features}] x", f"uint8[1,{features},{side},{side}] x"
    texts = {
        "Gemm": f"""net ({given[0]}) => (float[n,m] y) {common} {{ d = DequantizeLinear (x, xs, xz)
            f = DequantizeLinear <axis = 0> (w, ws, wz)
            c = DequantizeLinear <axis = 0> (b, bs, bz)
            y = Gemm <transB = 1> (d, f, c) }}""",
        "rows": f"""net ({given[1]}) => (float[n,m,h,v] y) {common} {{ d = DequantizeLinear (x, xs, xz)
            t = Transpose <perm = [0, 2, 3, 1]> (d)
            r = Reshape (t, flat)
            f = DequantizeLinear <axis = 0> (w, ws, wz)
            c = DequantizeLinear <axis = 0> (b, bs, bz)
            g = Gemm <transB = 1> (r, f, c)
            k = Reshape (g, cells)
            y = Transpose <perm = [0, 3, 1, 2]> (k) }}""",
        "Conv": f"""net ({given[1]}) => (float[n,m,h,v] y) {common} {{ d = DequantizeLinear (x, xs, xz)
            f = DequantizeLinear <axis = 0> (w, ws, wz)
            c = DequantizeLinear <axis = 0> (b, bs, bz)
            y = Conv (d, f, c) }}""",
        "ConvInteger": f"""net ({given[1]}) => (float[n,m,h,v] y) {common} {{ i = ConvInteger (x, w, xz, one)
            f = Cast <to = 1> (i)
            s = Mul (f, ws)
            y = Add (s, ws) }}""",
    }
    tasks = {}
    for form, text in texts.items():
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
        kernel = () if form in ("Gemm", "rows") else (1, 1)
        row = (outputs,) if form != "ConvInteger" else (outputs, 1, 1)
        values = {
            "w": rng.integers(-128, 127, (outputs, features, *kernel)).astype(np.int8),
            "ws": rng.uniform(0.001, 0.002, row).astype(np.float32),
            "wz": np.zeros(outputs, np.int8),
            "b": rng.integers(-999, 999, outputs).astype(np.int32),
            "bs": None,
            "bz": np.zeros(outputs, np.int32),
            "one": np.zeros((), np.int8),
            "flat": np.array([side * side, features]),
            "cells": np.array([1, side, side, outputs]),
        }
        values["bs"] = np.float32(0.02) * values["ws"]
        kept = [item for item in model.graph.initializer if item.name in ("xs", "xz")]
        read = {name for node in model.graph.node for name in node.input}
        made = [onnx.numpy_helper.from_array(value, name) for name, value in values.items() if name in read]
        model.graph.ClearField("initializer")
        model.graph.initializer.extend([*kept, *made])
        for info in model.graph.output:
            info.type.tensor_type.ClearField("shape")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            onnx.save(model, path)
            own, shape = (
                measure.session(path, args.threads),
                [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim],
            )
            tasks[form] = partial(own.run, None, {"x": rng.integers(0, 255, shape).astype(np.uint8)})
    seconds = measure.medians(tasks, 10 * args.rounds, time.process_time if args.processor else time.perf_counter)
    return [f"{features} → {outputs}", str(side * side), *(f"{seconds[form] * 1000:.2f} ms" for form in texts)]


def rows(original: Path, folder: Path, args: argparse.Namespace) -> list[list[str]]:
    found = quantised(original, folder, args.native)
    image = np.random.default_rng(0).standard_normal((1, 3, args.size, args.size)).astype(np.float32)
    tasks, told = {}, {}
    for form, path in found.items():
        target = folder / f"{form}-any.onnx"
        measure.rewrite(path, target)
        old, new = measure.session(path, args.threads), measure.session(target, args.threads)
        name = old.get_inputs()[0].name
        dense = new.run(None, {name: image})[0]
        pieces = crops(image, args.native, dense.shape[2:])
        tasks[form, "dense"] = partial(new.run, None, {name: image})
        tasks[form, "crop"] = partial(old.run, None, {name: pieces[:1]})
        tasks[form, "native"] = partial(new.run, None, {name: pieces[:1]})
        told[form] = len(pieces), layers(path), layers(target)
    clock = time.process_time if args.processor else time.perf_counter
    numbered = {f"{form} {task}": run for (form, task), run in tasks.items()}
    seconds = measure.medians(numbered, args.rounds, clock)
    plain = seconds["float dense"]
    return [
        [
            original.name.split(".")[0],
            form,
            *(f"{seconds[f'{form} {task}'] * 1000:.1f} ms" for task in ("dense", "crop", "native")),
            f"{seconds[f'{form} dense'] / plain:.2f}",
            f"{count * seconds[f'{form} crop'] / seconds[f'{form} dense']:.1f}x",
            before,
            after,
        ]
        for form, (count, before, after) in told.items()
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    options.add_argument("--models", nargs="+", default=["alexnet", "resnet18", "mobilenet_v2"])
    options.add_argument("--exporter", choices=("torchscript", "dynamo"), default="torchscript")
    options.add_argument("--size", type=int, default=384, help="height and width of the large image in pixels")
    options.add_argument("--native", type=int, default=224, help="native size of the models in pixels")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1, help="threads of onnxruntime; 0: its own choice")
    options.add_argument("--processor", action="store_true", help="count processor seconds")
    args = options.parse_args()
    lines: list[list[str]] = []
    for model in args.models:
        original = measure.exported(args.exports, model, args.exporter)
        with TemporaryDirectory() as folder:
            lines += rows(original, Path(folder), args)
    head = ["model", "form", "dense", "one crop", "rewritten, one crop", "dense / float's", "crops / dense"]
    print(measure.table([*head, "layers of the original", "of the rewritten"], lines))
    layers_alone = [
        last_layer(*shape, args) for shape in ((k, 1000, cells) for k in (4096, 512) for cells in (1, 36, 400))
    ]
    print()
    print(
        measure.table(
            ["last FC layer", "cells", "Gemm (QGemm)", "rows (QGemm)", "Conv (floats)", "ConvInteger"], layers_alone
        )
    )


if __name__ == "__main__":
    main()
