"""Rewriting and proving a large model against copying its file, and against tools that load it.

    python benchmarks/large_models.py --exports exports

VGG-16 (553 MB) by both of PyTorch's exporters. Each task is a process of its own and is measured as a whole,
interpreter and imports included: median seconds, and peak memory with the part of it that no file stands behind
(see usage.py). The tasks take turns; slow ones sit out after two rounds. The input lies in the page cache, or with
``--cold`` it does not; what a task writes is removed, and the disk left to come to rest, before the next one begins.

Two further models make onnxfc permute the weight of the first FC layer (411 MB): one stores it transposed, as
exporters that write MatMul do, and one flattens channels last. Their ratio is to the same ``cp``.

The proof is set beside what its sessions need: the original, then the rewritten model, each run at native size and the
latter at one that is larger, one closed before the other; opened as the proof does it, and as onnxruntime opens a file
by itself.

Missing exports are made first, which needs torch and torchvision; the other tools are in the extra ``benchmark``.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import numpy as np
import onnx
from onnx import helper, numpy_helper

PYTHON = sys.executable
USAGE = measure.ROOT / "benchmarks" / "usage.py"
ONNXFC = [PYTHON, "-m", "onnxfc"]
NOTHING = "import onnx, onnxruntime, numpy"
COPY = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
SURGEON = """
import sys, onnx, onnx_graphsurgeon as gs
onnx.save(gs.export_onnx(gs.import_onnx(onnx.load(sys.argv[1]))), sys.argv[2])
"""
SESSIONS = """
import sys, numpy as np, onnxruntime as ort
for path, sizes in ((sys.argv[1], [(224, 224)]), (sys.argv[2], [(224, 224), (256, 288)])):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in sizes:
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, *size), np.float32)})
    del session
"""
OWN_SESSIONS = """
import sys, numpy as np
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.ort_session import session
for path, sizes in ((sys.argv[1], [(224, 224)]), (sys.argv[2], [(224, 224), (256, 288)])):
    made = session(ModelFile.open(path))
    for size in sizes:
        made.run(None, {made.get_inputs()[0].name: np.zeros((1, 3, *size), np.float32)})
    del made
"""

SLOW = 5.0
"""Seconds from which on a task is measured twice at most."""

Figures = dict[str, float]


def transposed(model: onnx.ModelProto, gemm: onnx.NodeProto, weight: onnx.TensorProto) -> None:
    """Store the weight as (F, M), for transB=0."""
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    next(a for a in gemm.attribute if a.name == "transB").i = 0


def channels_last(model: onnx.ModelProto, gemm: onnx.NodeProto, weight: onnx.TensorProto) -> None:
    """Flatten the map as (N, H, W, C)."""
    flatten = next(n for n in model.graph.node if gemm.input[0] in n.output)
    turn = helper.make_node("Transpose", [flatten.input[0]], ["last"], name="turn", perm=[0, 2, 3, 1])
    model.graph.node.insert(list(model.graph.node).index(flatten), turn)
    flatten.input[0] = "last"
    values = numpy_helper.to_array(weight)
    turned = values.reshape(len(values), 512, 7, 7).transpose(0, 2, 3, 1).reshape(values.shape)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), weight.name))


def variant(source: Path, target: Path, change: Callable[..., None]) -> Path:
    """``source`` with its largest FC weight in another order; computes the same."""
    model = onnx.load(source)
    weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    gemm = next(node for node in model.graph.node if weight.name in node.input)
    change(model, gemm, weight)
    onnx.save(model, target)
    return target


def tasks(source: Path, folder: Path) -> dict[str, tuple[list[Path], list[str]]]:
    """What is measured: the files that a task reads, and its command, which may write ``folder/out.onnx``."""
    out, rewritten = str(folder / "out.onnx"), folder / "rewritten.onnx"
    measure.rewrite(source, rewritten)
    turned = variant(source, folder / "transposed.onnx", transposed)
    last = variant(source, folder / "last.onnx", channels_last)
    plain = [*ONNXFC, "rewrite", "-q", "--no-check"]
    return {
        "`cp`": ([source], ["cp", str(source), out]),
        "`onnxfc rewrite --no-check`": ([source], [*plain, str(source), out]),
        "  with a transposed weight": ([turned], [*plain, str(turned), out]),
        "  with a weight for channels last": ([last], [*plain, str(last), out]),
        "`onnxfc inspect`": ([source], [*ONNXFC, "inspect", str(source)]),
        "importing onnx, onnxruntime, numpy": ([], [PYTHON, "-c", NOTHING]),
        "onnx: load and save": ([source], [PYTHON, "-c", COPY, str(source), out]),
        "onnx-graphsurgeon: import and export": ([source], [PYTHON, "-c", SURGEON, str(source), out]),
        "OnnxSlim": ([source], [PYTHON, "-m", "onnxslim", str(source), out]),
        "onnxsim": ([source], [PYTHON, "-m", "onnxsim", str(source), out]),
        "`onnxfc rewrite`, proven": ([source], [*ONNXFC, "rewrite", "-q", str(source), out]),
        "  its sessions alone": ([source, rewritten], [PYTHON, "-c", OWN_SESSIONS, str(source), str(rewritten)]),
        "  with a transposed weight, proven": ([turned], [*ONNXFC, "rewrite", "-q", str(turned), out]),
        "onnxruntime: load and run both": (
            [source, rewritten],
            [PYTHON, "-c", SESSIONS, str(source), str(rewritten)],
        ),
    }


def settle(files: list[Path], cold: bool) -> None:
    """Nothing waits to be written; the input is in the page cache, or is not."""
    os.sync()
    for path in files:
        with path.open("rb") as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass


def run(command: list[str], folder: Path) -> Figures:
    """One task, measured in a process of its own."""
    path = os.pathsep.join(filter(None, (str(measure.ROOT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}  # with bytecode, as what is installed has it
    done = subprocess.run(
        [PYTHON, "-I", "-S", str(USAGE), *command],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    for written in folder.glob("out.onnx*"):
        written.unlink()
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    if figures["code"]:
        raise SystemExit(f"failed with {figures['code']:.0f}: {' '.join(command)}")
    return figures


def measured(source: Path, args: argparse.Namespace) -> dict[str, Figures]:
    """Medians of all tasks on one file."""
    with TemporaryDirectory(dir=args.exports) as name:
        folder = Path(name)
        work = tasks(source, folder)
        work = {task: item for task, item in work.items() if task == "`cp`" or args.only in task}
        found: dict[str, list[Figures]] = {task: [] for task in work}
        for count in range(args.rounds):
            for task, (files, command) in work.items():
                if count >= 2 and found[task][0]["seconds"] > SLOW:
                    continue
                settle(files, args.cold)
                found[task].append(run(command, folder))
                if args.verbose:
                    print(count, task, found[task][-1], file=sys.stderr, flush=True)
    keys = ("seconds", "peak", "anonymous")
    return {task: {key: statistics.median(f[key] for f in list_) for key in keys} for task, list_ in found.items()}


def cells(figures: Figures, copy: Figures) -> list[str]:
    memory = f"{figures['peak'] / 1e6:.0f} MB ({figures['anonymous'] / 1e6:.0f})"
    return [f"{figures['seconds']:.2f} s", f"{figures['seconds'] / copy['seconds']:.1f}", memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exports", type=Path, default=Path("exports"), help="folder of export_torchvision.py")
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--exporters", nargs="+", default=["torchscript", "dynamo"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only tasks with this in their name, and cp")
    parser.add_argument("--cold", action="store_true", help="drop the input from the page cache before each task")
    parser.add_argument("--verbose", action="store_true", help="print each measurement on stderr")
    args = parser.parse_args()
    compileall.compile_dir(measure.ROOT / "onnxfc", quiet=1)
    found = {e: measured(measure.exported(args.exports, args.model, e), args) for e in args.exporters}
    head = ["task", *(f"{e}: {column}" for e in found for column in ("time", "to `cp`", "peak (anonymous)"))]
    rows = [
        [task, *(cell for table in found.values() for cell in cells(table[task], table["`cp`"]))]
        for task in next(iter(found.values()))
    ]
    print(f"page cache {'cold' if args.cold else 'warm'}, {args.rounds} rounds")
    print(measure.table(head, rows))


if __name__ == "__main__":
    main()
