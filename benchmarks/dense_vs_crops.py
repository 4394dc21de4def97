"""One dense pass of the rewritten model against the crops that it replaces.

    python benchmarks/dense_vs_crops.py --exports exports

For each model, in one run and taking turns: the rewritten model once on a SIZE x SIZE image; the original on
every crop, one by one; the original on all crops in one batch. Beside the measured ratios stands what
the multiply-adds allow (crops x multiply-adds of a crop / multiply-adds of the dense pass).
Missing exports are made first, which needs torch and torchvision.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np


def crops(image: np.ndarray, native: int, cells: tuple[int, int]) -> np.ndarray:
    """The crops of (1, C, H, W) ``image`` that lie under the ``cells`` of its map, row by row."""
    rows = np.linspace(0, image.shape[2] - native, cells[0]).astype(int)
    columns = np.linspace(0, image.shape[3] - native, cells[1]).astype(int)
    return np.concatenate([image[:, :, y : y + native, x : x + native] for y in rows for x in columns])


def row(original: Path, rewritten: Path, args: argparse.Namespace) -> list[str]:
    old, new = measure.session(original, args.threads), measure.session(rewritten, args.threads)
    name = old.get_inputs()[0].name
    shape = (1, 3, args.size, args.size)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    dense = new.run(None, {name: image})[0]
    pieces = crops(image, args.native, dense.shape[2:])
    seconds = measure.medians(
        {
            "dense": lambda: new.run(None, {name: image}),
            "one by one": lambda: [old.run(None, {name: piece[None]}) for piece in pieces],
            "batch": lambda: old.run(None, {name: pieces}),
        },
        args.rounds,
    )
    allowed = len(pieces) * measure.macs(original, pieces[:1].shape) / measure.macs(rewritten, shape)
    return [
        original.name.split(".")[0],
        f"{dense.shape[2]}x{dense.shape[3]}",
        *(f"{seconds[task] * 1000:.0f} ms" for task in ("dense", "one by one", "batch")),
        *(f"{seconds[task] / seconds['dense']:.1f}x" for task in ("one by one", "batch")),
        f"{allowed:.1f}x",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    parser.add_argument("--models", nargs="+", default=["alexnet", "vgg16", "resnet18"])
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), default="torchscript")
    parser.add_argument("--size", type=int, default=384, help="height and width of the large image in pixels")
    parser.add_argument("--native", type=int, default=224, help="native size of the models in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime; 0: its own choice")
    args = parser.parse_args()
    rows = []
    for model in args.models:
        original = measure.exported(args.exports, model, args.exporter)
        with TemporaryDirectory() as folder:
            rewritten = Path(folder) / original.name
            measure.rewrite(original, rewritten)
            rows.append(row(original, rewritten, args))
    head = ["model", "map", "dense", "crops, one by one", "crops, one batch", "speed-up over one by one"]
    print(measure.table([*head, "over one batch", "allowed by multiply-adds"], rows))


if __name__ == "__main__":
    main()
