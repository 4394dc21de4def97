"""Processes that write one model with external data again and again, and processes that read it meanwhile.

``python tests/support/race.py --rounds 500`` runs until a reader or the end of a round finds anything but one of the
models, whole; the suite runs a few rounds. A round lets all writers save at the same moment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from file_models import mlp, write
from onnx import numpy_helper

from onnxfc.errors import ReadError
from onnxfc.io.model_file import ModelFile
from onnxfc.io.save import SaveOptions

OPTIONS = {
    "one": SaveOptions(save_as_external_data=True, all_tensors_to_one_file=True),
    "each": SaveOptions(save_as_external_data=True),
    "named": SaveOptions(save_as_external_data=True, external_data_location="weights.bin"),
    "inline": SaveOptions(),
}


def weights(proto: onnx.ModelProto) -> list[bytes]:
    return [numpy_helper.to_array(tensor).tobytes() for tensor in proto.graph.initializer]


def writer(out: Path, source: Path, kind: str) -> None:
    """Save once for each line on stdin."""
    model = ModelFile.open(source)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(saved(model, out, kind), flush=True)


def saved(model: ModelFile, out: Path, kind: str) -> str:
    """What came of it, in one line."""
    try:
        model.save(out, OPTIONS[kind])
    except Exception as error:
        return f"writer: {error!r}"
    return "saved"


def reader(out: Path, sources: list[Path]) -> None:
    """Read until killed, with onnx and with onnxfc in turn; print what is wrong."""
    wanted = [weights(onnx.load(path)) for path in sources]
    print("ready", flush=True)
    count = 0
    while True:
        count += 1
        before = out.read_bytes() if out.exists() else None
        if before is None:
            continue
        try:
            found = weights(onnx.load(out) if count % 2 else ModelFile.open(out).loaded())
        except (OSError, RuntimeError, ReadError, onnx.checker.ValidationError) as error:
            if out.read_bytes() == before:  # else two saves came between: its data is gone, and it was told so
                print(f"reader: {error!r}", flush=True)
            continue
        if found not in wanted:
            print("reader: a mixture of models", flush=True)


class Processes:
    """Writers and readers, ready to go; killed at the end."""

    def __init__(self, folder: Path, kinds: list[str], readers: int, features: int) -> None:
        self.out = folder / "out" / "out.onnx"
        self.out.parent.mkdir()
        self.sources = [write(folder / f"in{seed}.onnx", mlp(features, 64, seed * 50)) for seed, _ in enumerate(kinds)]
        jobs = [["writer", self.out, path, kind] for path, kind in zip(self.sources, kinds, strict=True)]
        self.writers = [self._start(job) for job in jobs]
        self.readers = [self._start(["reader", self.out, *self.sources]) for _ in range(readers)]

    def _start(self, job: list[object]) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, __file__, *map(str, job)], text=True, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def round(self) -> list[str]:
        """All writers save at once; returns what was wrong."""
        for process in self.writers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.stdout.readline() for process in self.writers if process.stdout is not None]
        wrong = [line for line in told if line != "saved\n"]
        try:
            if weights(onnx.load(self.out)) not in [weights(onnx.load(path)) for path in self.sources]:
                wrong.append("a mixture of models")
        except Exception as error:
            wrong.append(f"the result cannot be read: {error!r}")
        return wrong

    def close(self) -> list[str]:
        """End all processes; returns what the readers found wrong."""
        wrong: list[str] = []
        for process in [*self.writers, *self.readers]:
            if process.poll() is not None:
                wrong.append(f"{process.args} ended by itself")
            process.kill()
            wrong += process.communicate()[0].splitlines()
        return wrong


def race(folder: Path, kinds: list[str], rounds: int, readers: int = 1, features: int = 512) -> list[str]:
    """What was wrong in ``rounds`` rounds."""
    processes = Processes(folder, kinds, readers, features)
    wrong: list[str] = []
    try:
        for _ in range(rounds):
            wrong += processes.round()
    finally:
        wrong += processes.close()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--features", type=int, default=512, help="size of the models: 512 is 130 kB")
    parser.add_argument("kinds", nargs="*", default=["one", "one"], help="one writer each: one, each, named, inline")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = race(Path(folder), given.kinds, given.rounds, given.readers, given.features)
        left = sorted(path.name for path in (Path(folder) / "out").iterdir())
    print(*wrong[:20], f"{given.rounds} rounds of {given.kinds}: {len(wrong)} wrong, files left {left}", sep="\n")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["writer"]:
        writer(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:2] == ["reader"]:
        reader(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:
        main()
