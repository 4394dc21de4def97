"""Does onnxruntime make the same of a rewritten model at native size? Nodes after its optimiser, and latency.

    python benchmarks/native_nodes.py --exports exports
    python benchmarks/native_nodes.py --exports exports --python PYTHON    # PYTHON: an interpreter with TensorFlow

One row for each model and exporter, batch 1. The original is loaded twice: its two sessions and that of the rewritten
model take turns in one run, in changing order. The ratio of the original to itself is the noise that the ratio of the
rewritten model has to be seen against; on a busy machine, add ``--cpu-time``. Missing exports are made first, which
needs torch and torchvision; Keras applications are exported where ``--python`` is given, and left out where they are
missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np
import onnxruntime as ort

TORCHVISION = (
    *("resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0", "efficientnet_b0", "densenet121", "convnext_tiny"),
    *("regnet_y_400mf", "googlenet", "squeezenet1_1", "inception_v3", "mnasnet0_5"),
)
KERAS = ("MobileNetV2", "EfficientNetB0", "ConvNeXtTiny")
FIXTURES = ("unet.dynamo", "unet.torchscript", "pyramid.dynamo", "super_resolution.dynamo")
HEAD = (
    *("model", "exporter", "nodes", "rewritten", "original", "rewritten", "original / itself"),
    "rewritten / original",
)
DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


def files(args: argparse.Namespace) -> Iterator[Path]:
    for model in args.models:
        yield from (measure.exported(args.exports, model, exporter, batch=False) for exporter in args.exporters)
    for model in args.keras:
        path = args.exports / f"{model}.keras.onnx"
        if args.python and not path.exists():
            script = str(measure.ROOT / "benchmarks" / "export_keras.py")
            subprocess.run([args.python, script, "--out", str(args.exports), "--models", model], check=True)
        if path.exists():
            yield path
        else:
            print(f"{path} is missing: left out", file=sys.stderr)
    yield from (next((measure.ROOT / "fixtures").glob(f"*/{name}.onnx")) for name in FIXTURES)


def image(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """A native image for each input; of open dims the batch is 1."""
    rng = np.random.default_rng(0)
    feed = {}
    for item in session.get_inputs():
        shape = [length if isinstance(length, int) else 1 for length in item.shape]
        feed[item.name] = rng.uniform(0, 1, shape).astype(DTYPES[item.type])
    return feed


def row(path: Path, args: argparse.Namespace) -> list[str]:
    with TemporaryDirectory() as folder:
        rewritten = Path(folder) / path.name
        measure.rewrite(path, rewritten, batch=False)
        nodes = [measure.optimised_nodes(item) for item in (path, rewritten)]
        # One of a kind after the other: what lies side by side in memory is then not always of one model.
        threads = 1 if args.cpu_time else args.threads
        sessions = [measure.session(item, threads) for item in (path, rewritten, path)]
    feed = image(sessions[0])
    names = ("original", "rewritten", "again")
    tasks = {name: (lambda s=s: s.run(None, feed)) for name, s in zip(names, sessions, strict=True)}
    seconds = measure.medians(tasks, args.rounds, time.thread_time if args.cpu_time else time.perf_counter)
    model, _, exporter = path.name.removesuffix(".onnx").partition(".")
    return [
        model,
        exporter,
        *map(str, nodes),
        *(f"{seconds[name] * 1000:.2f} ms" for name in names[:2]),
        f"{seconds['again'] / seconds['original']:.3f}",
        f"{2 * seconds['rewritten'] / (seconds['original'] + seconds['again']):.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of the exports")
    parser.add_argument("--models", nargs="*", default=TORCHVISION, help="torchvision's")
    parser.add_argument("--exporters", nargs="+", default=("torchscript", "dynamo"))
    parser.add_argument("--keras", nargs="*", default=KERAS, help="Keras applications")
    parser.add_argument("--python", help="an interpreter with TensorFlow, to export Keras applications")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime; 0: its own choice")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of one thread: for a busy machine")
    args = parser.parse_args()
    lines = []
    for path in files(args):
        lines.append(row(path, args))
        print(*lines[-1], file=sys.stderr, flush=True)
    print(measure.table(HEAD, lines))


if __name__ == "__main__":
    main()
