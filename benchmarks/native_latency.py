"""Latency at native size: the rewritten model against the original, batch 1 and batch 32.

    python benchmarks/native_latency.py --exports exports

Both models take turns in one run. At larger batches onnxruntime's Conv reads the weights of a large
FC layer once for each image, where Gemm reads them once for all: a rewritten model is for images larger than
native. Missing exports are made first, which needs torch and torchvision.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np


def rows(original: Path, rewritten: Path, args: argparse.Namespace) -> Iterator[list[str]]:
    old, new = measure.session(original, args.threads), measure.session(rewritten, args.threads)
    name = old.get_inputs()[0].name
    for batch in args.batches:
        shape = (batch, 3, args.native, args.native)
        feed = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        seconds = measure.medians(
            {
                "original": lambda feed=feed: old.run(None, feed),
                "rewritten": lambda feed=feed: new.run(None, feed),
            },
            max(3, args.rounds // batch),
        )
        yield [
            original.name.split(".")[0],
            str(batch),
            *(f"{value * 1000:.1f} ms" for value in seconds.values()),
            f"{seconds['rewritten'] / seconds['original']:.2f}",
            f"{measure.macs(rewritten, shape) / measure.macs(original, shape):.2f}",
        ]


def main() -> None:
    args = measure.native_arguments(__doc__)
    lines: list[list[str]] = []
    for model in args.models:
        original = measure.exported(args.exports, model, args.exporter)
        with TemporaryDirectory() as folder:
            rewritten = Path(folder) / original.name
            measure.rewrite(original, rewritten)
            lines += rows(original, rewritten, args)
    head = ["model", "batch", "original", "rewritten", "rewritten / original", "multiply-adds / original"]
    print(measure.table(head, lines))


if __name__ == "__main__":
    main()
