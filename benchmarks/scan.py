"""Scanning a large image: time against onnxruntime's own, memory above one session, and crops instead.

    python benchmarks/scan.py --exports exports --size 12000

The image is an RGB TIFF in tiles of JPEG. For each model, each figure from a process of its own:

- the scan's time, and what of it onnxruntime took (their ratio is what reading, preparing and writing cost);
- its peak memory, and that of a process with nothing but the model's session which runs one tile of the same size;
- what all crops would take one by one, and in batches of 32, by the time that some of them take;
- with ``--dask``: two workers of one thread each against one.

VGG-16 and ResNet-18 come from export_torchvision.py, which needs torch and torchvision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import numpy as np

LENET = measure.ROOT / "fixtures" / "torch" / "lenet_batch.dynamo.onnx"


def write_image(path: Path, size: int) -> None:
    """Waves and noise, so that JPEG has something to do."""
    import tifffile

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (512, 512, 3), np.uint8)

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, size, 512):
            for left in range(0, size, 512):
                y, x = np.ogrid[top : top + 512, left : left + 512]
                wave = 90 + 80 * np.sin(y / 37) * np.cos(x / 53)
                yield (wave[:, :, None] + noise).astype(np.uint8)

    how: dict[str, Any] = {"tile": (512, 512), "photometric": "rgb", "compression": "jpeg"}
    tifffile.imwrite(path, tiles(), shape=(size, size, 3), dtype=np.uint8, bigtiff=True, **how)


def worker(task: str, arguments: list[str]) -> dict[str, Any]:
    """Run a task in a process of its own."""
    command = [sys.executable, __file__, "--task", task, *arguments]
    path = os.pathsep.join(filter(None, (str(measure.ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, encoding="utf-8", check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peak() -> float:
    """Of this process alone, in MB: what getrusage tells begins with the peak of the parent."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024


def scan(args: argparse.Namespace, dask: Any = None) -> dict[str, Any]:
    """One scan of the image."""
    from onnxfc.scanner.api import run_scan
    from onnxfc.scanner.options import ScanOptions

    bands = (1,) if args.model == LENET else ()
    options = ScanOptions(scale=1 / 255, bands=bands, memory=args.memory, threads=args.threads, prove=False)
    done = run_scan(args.model, args.image, args.out, options=options, dask=dask, keep=False)
    plan = done.job.plan
    return {
        "cells": plan.grid,
        "tiles": len(plan),
        "size": plan.size,
        "seconds": done.seconds[0],
        "session": done.seconds[1],
        "peak": peak(),
    }


def alone(args: argparse.Namespace) -> dict[str, Any]:
    """The model's session, and one tile."""
    from onnxfc.scanner.scan_model import ScanModel

    model = ScanModel.open(args.model, prove=False)
    made = model.session(args.threads)
    tile = np.ones((1, model.channels, *args.tile), model.dtype)
    for _ in range(2):
        made.run(tile)
    return {"peak": peak()}


def crops(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for one crop, run alone and in a batch, by the original."""
    made = measure.session(args.model, args.threads)
    info = made.get_inputs()[0]
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    fixed = isinstance(info.shape[0], int)
    found = {}
    for name, count in (("single", 1), ("batch", 1 if fixed else 32)):
        batch = np.zeros((count, *shape[1:]), np.float32)
        made.run(None, {info.name: batch})
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < args.patience:
            made.run(None, {info.name: batch})
            rounds += 1
        found[name] = (time.perf_counter() - began) / rounds / count
    return found


def on_dask(args: argparse.Namespace) -> dict[str, Any]:
    """With one worker, then with two, of one thread each; the first tile of each aside."""
    from dask.distributed import Client, LocalCluster

    found = {}
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            found[str(workers)] = scan(args, client)["seconds"]
    return found


def row(model: Path, args: argparse.Namespace, folder: str) -> list[str]:
    common = ["--memory", str(args.memory), "--threads", str(args.threads), "--patience", str(args.patience)]
    common += ["--image", str(args.image), "--out", f"{folder}/map.npy", "--model", str(model)]
    done = worker("scan", common)
    one = worker("alone", [*common, "--tile", *map(str, done["size"])])
    each = worker("crops", common)
    cells = done["cells"][0] * done["cells"][1]
    return [
        model.name.split(".")[0],
        f"{done['cells'][0]}x{done['cells'][1]}",
        f"{done['tiles']} of {done['size'][0]}x{done['size'][1]}",
        f"{done['seconds']:.1f} s",
        f"{done['session']:.1f} s",
        f"{done['seconds'] / done['session']:.2f}",
        f"{done['peak'] - one['peak']:.0f} MB",
        *(f"{each[how] * cells / done['seconds']:.1f}x" for how in ("single", "batch")),
    ]


HEADER = ["model", "cells", "tiles", "scan", "in onnxruntime", "ratio", "memory above a session"]
HEADER += ["crops one by one / scan", "crops in batches / scan"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    parser.add_argument("--models", nargs="+", default=["lenet", "vgg16", "resnet18"])
    parser.add_argument("--size", type=int, default=12_000, help="height and width of the image in pixels")
    parser.add_argument("--memory", type=int, default=1_000_000_000, help="bytes for tiles")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--patience", type=float, default=3, help="seconds for crops of a kind")
    parser.add_argument("--dask", action="store_true", help="compare two Dask workers with one, by the first model")
    parser.add_argument("--image", type=Path, help="another image")
    for name in ("--task", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tile", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps({"scan": scan, "alone": alone, "crops": crops, "on_dask": on_dask}[args.task](args)))
        return
    with TemporaryDirectory() as folder:
        if args.image is None:
            args.image = Path(folder) / "image.tif"
            write_image(args.image, args.size)
        models = [
            LENET if name == "lenet" else measure.exported(args.exports, name, "torchscript") for name in args.models
        ]
        print(measure.table(HEADER, [row(model, args, folder) for model in models]))
        if args.dask:
            common = ["--image", str(args.image), "--out", f"{folder}/map.npy", "--model", str(models[0])]
            found = worker("on_dask", [*common, "--memory", str(args.memory), "--threads", "1"])
            print(f"\nDask: {found['1']:.1f} s with one worker, {found['2']:.1f} s with two")


if __name__ == "__main__":
    main()
