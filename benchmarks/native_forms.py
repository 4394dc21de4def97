"""Latency at native size: forms for accelerators and the way back against the original, batch 1 and batch 32.

    python benchmarks/native_forms.py --exports exports

``conv4d`` is made of the original at that batch, ``gemm`` of conv4d. All take turns in one run, the original twice:
what it is against itself is the noise. Missing exports are made first, which needs torch and torchvision.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np
import onnx


def at_batch(original: Path, batch: int, target: Path) -> None:
    """The original with this batch written into its input, and its outputs' left open."""
    model = onnx.load(original)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    onnx.save(model, target)


def rows(original: Path, folder: Path, args: argparse.Namespace) -> Iterator[list[str]]:
    for batch in args.batches:
        names = [folder / f"{form}.onnx" for form in ("original", "conv4d", "gemm")]
        at_batch(original, batch, names[0])
        for source, target in pairwise(names):
            measure.rewrite(source, target, "--form", target.stem)
        sessions = {path.stem: measure.session(path, args.threads) for path in names}
        sessions["again"] = measure.session(names[0], args.threads)
        name = sessions["original"].get_inputs()[0].name
        shape = (batch, 3, args.native, args.native)
        feed = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        tasks = {form: partial(own.run, None, feed) for form, own in sessions.items()}
        seconds = measure.medians(tasks, max(3, args.rounds // batch))
        first = seconds["original"]
        yield [
            original.name.split(".")[0],
            str(batch),
            *(f"{seconds[form] * 1000:.1f} ms" for form in ("original", "conv4d", "gemm")),
            *(f"{seconds[form] / first:.2f}" for form in ("again", "conv4d", "gemm")),
        ]


def main() -> None:
    args = measure.native_arguments(__doc__)
    lines: list[list[str]] = []
    for model in args.models:
        original = measure.exported(args.exports, model, args.exporter)
        with TemporaryDirectory() as folder:
            lines += rows(original, Path(folder), args)
    head = ["model", "batch", "original", "conv4d", "gemm", "original / itself", "conv4d / original", "gemm / original"]
    print(measure.table(head, lines))


if __name__ == "__main__":
    main()
