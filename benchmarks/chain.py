"""What a node costs: rewriting without proof against the number of nodes.

    python benchmarks/chain.py --nodes 500 2000 8000

Chains of little layers, so that no weight counts: ``padded`` (a Conv with padding and a Relu), ``residual`` (the same,
and an Add), ``reshaped`` (a Conv, and a Relu on the flattened map), ``computed`` (as before, with shapes computed from
Shape, a dozen nodes of arithmetic a layer), ``gated`` (a Conv, and a squeeze-and-excitation block). Each is rewritten
by a process of its own, which is measured as a whole: median processor seconds and peak memory. The last columns say
what one more node costs: what is beyond the shortest chain, divided by the nodes that are. Where they rise from row to
row, something grows faster than the network.
"""

from __future__ import annotations

import argparse
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

USAGE = measure.ROOT / "benchmarks" / "usage.py"
CHANNELS, SIZE = 8, 15


class Chain:
    """A network that grows by one layer after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self._random = np.random.default_rng(0)
        self.end = self.conv("image", channels=3, kernel=3, strides=[2, 2])

    def add(self, op_type: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def constant(self, name: str, values: list[int] | np.ndarray) -> str:
        """An initializer; asked for once more, the same."""
        self.weights.setdefault(name, numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int) -> str:
        values = self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.constant(f"w{len(self.nodes)}", values.astype(np.float32))

    def conv(self, tensor: str, channels: int = CHANNELS, kernel: int = 1, **attributes: object) -> str:
        return self.add("Conv", [tensor, self.weight(CHANNELS, channels, kernel, kernel)], **attributes)

    def model(self) -> onnx.ModelProto:
        """With an FC layer at its end."""
        flat = self.add("Flatten", [self.end])
        scores = self.add("Gemm", [flat, self.weight(10, CHANNELS * SIZE**2)], transB=1)
        image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 2 * SIZE + 2, 2 * SIZE + 2])
        output = helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, [1, 10])
        graph = helper.make_graph(self.nodes, "chain", [image], [output], list(self.weights.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def padded(chain: Chain) -> None:
    chain.end = chain.add("Relu", [chain.conv(chain.end, kernel=3, pads=[1] * 4)])


def residual(chain: Chain) -> None:
    before = chain.end
    padded(chain)
    chain.end = chain.add("Add", [chain.end, before])


def reshaped(chain: Chain) -> None:
    flat = chain.constant("flat", [0, CHANNELS, -1])
    back = chain.constant("back", [0, CHANNELS, SIZE, SIZE])
    tokens = chain.add("Relu", [chain.add("Reshape", [chain.conv(chain.end), flat])])
    chain.end = chain.add("Reshape", [tokens, back])


def computed(chain: Chain) -> None:
    batch, axis = chain.constant("batch", [1, CHANNELS]), chain.constant("axis", [0])
    tensor = chain.conv(chain.end)
    shape = chain.add("Shape", [tensor])
    height, width = (chain.add("Gather", [shape, chain.constant(f"place{k}", np.array(k))]) for k in (2, 3))
    ends = [chain.add("Unsqueeze", [item, axis]) for item in (height, width, chain.add("Mul", [height, width]))]
    flat, back = (chain.add("Concat", [batch, *part], axis=0) for part in (ends[2:], ends[:2]))
    tokens = chain.add("Relu", [chain.add("Reshape", [tensor, flat])])
    chain.end = chain.add("Reshape", [tokens, back])


def gated(chain: Chain) -> None:
    tensor = chain.conv(chain.end)
    gate = chain.add("Sigmoid", [chain.conv(chain.add("GlobalAveragePool", [tensor]))])
    chain.end = chain.add("Mul", [tensor, gate])


KINDS: dict[str, Callable[[Chain], None]] = {
    "padded": padded,
    "residual": residual,
    "reshaped": reshaped,
    "computed": computed,
    "gated": gated,
}


def made(kind: str, nodes: int, path: Path) -> Path:
    """A chain of at least so many nodes, saved."""
    chain = Chain()
    while len(chain.nodes) < nodes - 2:
        KINDS[kind](chain)
    onnx.save(chain.model(), path)
    return path


def rewritten(source: Path) -> dict[str, float]:
    """Seconds of processor time and peak bytes of ``onnxfc rewrite --no-check``."""
    command = [sys.executable, "-m", "onnxfc", "rewrite", "-q", "--no-check", str(source), str(source) + ".out"]
    path = os.pathsep.join(filter(None, (str(measure.ROOT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}  # with bytecode, as what is installed has it
    call = [sys.executable, "-I", "-S", str(USAGE), *command]
    done = subprocess.run(call, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if figures["code"]:
        raise SystemExit(f"failed with {figures['code']:.0f}: {source.name}")
    return figures


def rows(kind: str, counts: list[int], rounds: int, folder: Path) -> list[list[str]]:
    """One row a length; the lengths take turns."""
    files = {count: made(kind, count, folder / f"{kind}.{count}.onnx") for count in counts}
    found = [{count: rewritten(path) for count, path in files.items()} for _ in range(rounds)]
    seconds, peak = (
        {count: statistics.median(figures[count][key] for figures in found) for count in counts}
        for key in ("cpu", "peak")
    )
    shortest, table = counts[0], []
    for count in counts:
        row = [kind, str(count), f"{seconds[count]:.2f} s", f"{peak[count] / 1e6:.0f} MB", "", ""]
        if count > shortest:
            more = count - shortest
            row[4] = f"{(seconds[count] - seconds[shortest]) / more * 1e3:.2f} ms"
            row[5] = f"{(peak[count] - peak[shortest]) / more / 1e3:.0f} kB"
        table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = [row for kind in args.kinds for row in rows(kind, sorted(args.nodes), args.rounds, Path(folder))]
    head = ["chain", "nodes", "time", "peak memory", "a further node: time", "memory"]
    print(measure.table(head, found))


if __name__ == "__main__":
    main()
