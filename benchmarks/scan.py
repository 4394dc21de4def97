"""Scanning a large image: processor time against that of its sessions alone, memory, and windows one by one instead.

    python benchmarks/scan.py --exports exports --size 12000

The image is an RGB TIFF in tiles of JPEG. Each figure is from a process of its own, in seconds of processor
time of all its threads, so that other work on the machine changes little:

- the scan, model and image opened, the map written; its sessions alone on as many tiles of the same size that are
  there already; reading and decoding alone;
- by the clock, which counts what other work takes: the scan against the sum of what its sessions' runs took in it;
- its peak memory, above that of a process with nothing but the model's session which runs one tile of that size;
- what all windows would take one by one, in batches of 32, and by MONAI's sliding_window_inference with the original
  in onnxruntime as its predictor, by the time that some of them take (``--patience`` seconds, at least 9 windows);
- with ``--dask``: two workers of one thread each against one, by the clock.

``lenet`` is the narrow fixture, given one band of the three. The others come from export_torchvision.py, which needs
torch and torchvision: LeNet-5 for colours, ResNet-18, VGG-16 (``vgg16_quarter``: with a quarter of its channels); MONAI
needs torch. The map is written into the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import numpy as np

LENET = measure.ROOT / "fixtures" / "torch" / "lenet_batch.dynamo.onnx"


def write_image(path: Path, size: int) -> None:
    """Waves and a grain of two pixels: about as many bits as a photograph has."""
    import tifffile

    rng = np.random.default_rng(0)
    grain = rng.integers(0, 40, (256, 256, 3), np.uint8).repeat(2, 0).repeat(2, 1)

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, size, 512):
            for left in range(0, size, 512):
                y, x = np.ogrid[top : top + 512, left : left + 512]
                wave = 90 + 80 * np.sin(y / 37) * np.cos(x / 53)
                yield (wave[:, :, None] + grain).astype(np.uint8)

    how: dict[str, Any] = {"tile": (512, 512), "photometric": "rgb", "compression": "jpeg"}
    how["compressionargs"] = {"level": 85}
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


def scanned(args: argparse.Namespace, dask: Any = None) -> Any:
    """One scan of the image."""
    from onnxfc.scanner.api import run_scan
    from onnxfc.scanner.options import ScanOptions

    bands = (1,) if args.model == LENET else ()
    options = ScanOptions(scale=1 / 255, bands=bands, memory=args.memory, threads=args.threads, prove=False)
    return run_scan(args.model, args.image, args.out, options=options, dask=dask, keep=False)


def scan(args: argparse.Namespace) -> dict[str, Any]:
    """What a scan takes, once all that it imports is there."""
    import_module("onnxfc.scanner.tiff_source")
    import_module("onnxfc.scanner.api")
    began = time.process_time()
    done = scanned(args)
    spent = time.process_time() - began
    plan, (clock, session) = done.job.plan, done.seconds
    about = {"cells": plan.grid, "tiles": len(plan), "size": plan.size, "clock": clock / (session * done.job.at_once)}
    return about | {"seconds": spent, "peak": peak()}


def sessions(args: argparse.Namespace) -> dict[str, Any]:
    """The model's session alone: the first tiles, by which all are counted, and the peak of memory with one tile."""
    from onnxfc.scanner.scan_model import ScanModel

    model = ScanModel.open(args.model, prove=False)
    made = model.session(args.threads)
    tile = np.random.default_rng(0).random((1, model.channels, *args.tile)).astype(model.dtype)
    made.run(tile)
    made.run(tile)
    highest = peak()
    began, rounds = time.process_time(), 0
    while rounds < args.tiles and (rounds < 2 or time.process_time() - began < 10 * args.patience):
        made.run(tile)
        rounds += 1
    return {"seconds": (time.process_time() - began) / rounds * args.tiles, "peak": highest}


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Every window of a tile's size, once."""
    from onnxfc.scanner.open_image import open_image

    began = time.process_time()
    source = open_image(args.image).source
    height, width = source.shape[:2]
    for top in range(0, height, args.tile[0]):
        for left in range(0, width, args.tile[1]):
            source.read(top, min(height, top + args.tile[0]), left, min(width, left + args.tile[1]))
    return {"seconds": time.process_time() - began}


def crops(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for one window, run by the original alone, in a batch, and by MONAI."""
    made = measure.session(args.model, args.threads or 1)
    info = made.get_inputs()[0]
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    fixed = isinstance(info.shape[0], int)
    found = {}
    for name, count in (("single", 1), ("batch", 1 if fixed else 32)):
        batch = np.zeros((count, *shape[1:]), np.float32)
        made.run(None, {info.name: batch})
        found[name] = _each(lambda batch=batch: made.run(None, {info.name: batch}), args.patience) / count
    found["monai"] = _monai(made, info.name, shape, 1 if fixed else 32, args.patience)
    return found


def _each(action: Callable[[], Any], patience: float) -> float:
    began, rounds = time.process_time(), 0
    while rounds < 1 or time.process_time() - began < patience:
        action()
        rounds += 1
    return (time.process_time() - began) / rounds


def _monai(session: Any, name: str, shape: list[int], batch: int, patience: float) -> float | None:
    """None where it is not installed. The predictor's scores are a picture of one pixel, as MONAI wants it."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return None
    torch.set_num_threads(1)
    stride = 4 if shape[-1] < 64 else 32
    side = shape[-1] + (40 if stride == 4 else 2) * stride
    image = torch.zeros(1, shape[1], side, side)

    def predictor(windows: Any) -> Any:
        return torch.from_numpy(session.run(None, {name: windows.numpy()})[0])[:, :, None, None]

    def all_windows() -> None:
        overlap = 1 - stride / shape[-1]
        sliding_window_inference(image, shape[-2:], batch, predictor, overlap=overlap, mode="constant")

    return _each(all_windows, patience) / ((side - shape[-1]) // stride + 1) ** 2


def on_dask(args: argparse.Namespace) -> dict[str, Any]:
    """With one worker, then with two, of one thread each; the first tile of each aside."""
    from dask.distributed import Client, LocalCluster

    found = {}
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            found[str(workers)] = scanned(args, client).seconds[0]
    return found


def row(model: Path, args: argparse.Namespace, folder: str) -> list[str]:
    common = ["--memory", str(args.memory), "--threads", str(args.threads), "--patience", str(args.patience)]
    common += ["--image", str(args.image), "--out", f"{folder}/map.npy", "--model", str(model)]
    done = worker("scan", common)
    common += ["--tile", *map(str, done["size"]), "--tiles", str(done["tiles"])]
    one, read, each = (worker(task, common) for task in ("sessions", "reading", "crops"))
    cells = done["cells"][0] * done["cells"][1]
    return [
        model.name.split(".")[0],
        f"{args.size}x{args.size}",
        f"{done['tiles']} of {done['size'][0]}x{done['size'][1]}",
        *(f"{item['seconds']:.1f} s" for item in (done, one, read)),
        f"{done['seconds'] / one['seconds']:.2f}",
        f"{(done['seconds'] - read['seconds']) / one['seconds']:.2f}",
        f"{done['clock']:.2f}",
        f"{done['peak'] - one['peak']:.0f} MB",
        *(
            f"{time * cells / done['seconds']:.1f}x" if time else ""
            for time in map(each.get, ("single", "batch", "monai"))
        ),
    ]


HEADER = ["model", "image", "tiles", "scan", "sessions alone", "reading alone", "scan / sessions"]
HEADER += ["without reading", "scan / sessions by the clock"]
HEADER += ["memory above a session", "windows one by one / scan", "in batches / scan", "MONAI / scan"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    parser.add_argument("--models", nargs="+", default=["lenet", "lenet5", "resnet18", "vgg16_quarter"])
    parser.add_argument("--size", type=int, default=12_000, help="height and width of the image in pixels")
    parser.add_argument("--memory", type=int, default=1_000, help="MB for tiles")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--patience", type=float, default=3, help="seconds for crops of a kind")
    parser.add_argument("--dask", action="store_true", help="compare two Dask workers with one, by the first model")
    parser.add_argument("--image", type=Path, help="another image")
    for name in ("--task", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tile", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--tiles", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        tasks = {"scan": scan, "sessions": sessions, "reading": reading, "crops": crops, "on_dask": on_dask}
        print(json.dumps(tasks[args.task](args)))
        return
    with TemporaryDirectory() as folder:
        if args.image is None:
            args.image = Path(folder) / "image.tif"
            write_image(args.image, args.size)
            print(f"{8 * args.image.stat().st_size / args.size**2:.1f} bits a pixel", file=sys.stderr)
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
