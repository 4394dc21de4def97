"""Rewrite and prove many models, and print a table: what was changed, the verdict, the measured results.

    python benchmarks/sweep.py FOLDER                                  # the models of a folder
    python benchmarks/sweep.py FOLDER --torchvision all                # exported there one by one, then deleted
    python benchmarks/sweep.py FOLDER --keras all --python PYTHON      # PYTHON: an interpreter with TensorFlow

Each model is proven at its native size and at three larger ones (on the stride grid, off it, and at one more).
``--rows FILE`` keeps the rows as JSON lines; a model that has a row there is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from onnxfc.errors import NothingToRewrite, OnnxfcError
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

HERE = Path(__file__).parent
COLUMNS = ("model", "exporter", "nodes changed", "verdict", "native", "window", "crops: largest, median", "seconds")


@dataclass(frozen=True)
class Row:
    """One line of the table. ``outcome``: proven, refused or failed; of the last two only ``verdict`` says why."""

    model: str
    exporter: str
    outcome: str
    changed: str = ""
    verdict: str = ""
    native: str = ""
    window: str = ""
    crops: str = ""
    seconds: str = ""

    def __str__(self) -> str:
        cells = (self.model, self.exporter, self.changed, self.verdict, self.native, self.window, self.crops)
        return f"| {' | '.join((*cells, self.seconds))} |"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--match", default="*.onnx", show_default=True, help="Which files of the folder.")
@click.option("--torchvision", default="", help="Networks or families of torchvision to export, or all; by commas.")
@click.option("--keras", default="", help="Keras applications to export, or all; by commas.")
@click.option("--python", "interpreter", default=sys.executable, help="The interpreter that exports.")
@click.option("--rows", "kept", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines to add to.")
@click.option("--samples", default=3, show_default=True, help="Inputs at native size; fewer for the largest.")
def main(
    folder: Path, match: str, torchvision: str, keras: str, interpreter: str, kept: Path | None, samples: int
) -> None:
    """Print one row per model; exit 1 if a proof failed."""
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    done = _known(kept)
    failed = 0
    for path in _files(folder, match, interpreter, {"torchvision": torchvision, "keras": keras}, set(done)):
        row = done.get(path.stem) or _row(path, samples)
        if kept is not None and path.stem not in done:
            with kept.open("a") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")
        failed += row.outcome == "failed"
        click.echo(str(row))
    sys.exit(min(failed, 1))


def _known(kept: Path | None) -> dict[str, Row]:
    if kept is None or not kept.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in kept.read_text().splitlines()]
    return {f"{row.model}.{row.exporter}": row for row in rows}


def _files(folder: Path, match: str, interpreter: str, wanted: dict[str, str], done: set[str]) -> Iterator[Path]:
    """The folder's files, or each network's while it is there: exported, and deleted when it was looked at."""
    if not any(wanted.values()):
        yield from sorted(folder.glob(match))
    for source, words in wanted.items():
        script = [interpreter, str(HERE / f"export_{source}.py")]
        listed = [*script, "--list", "--models", *words.split(",")]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split() if words else []
        for name in names:
            known = [Path(f"{stem}.onnx") for stem in sorted(done) if stem.split(".")[0] == name]
            yield from known or _exported(folder, name, source, [*script, "--models", name])


def _exported(folder: Path, name: str, source: str, script: list[str]) -> Iterator[Path]:
    """One network's files, with what lies beside them, as long as they are looked at."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        if subprocess.run([*script, "--out", own], stdout=sys.stderr).returncode:
            click.echo(f"| {name} | {source} | | not exported | | | | |")
        yield from sorted(Path(own).glob(f"{name}.*.onnx"))


def _row(path: Path, samples: int) -> Row:
    name, _, exporter = path.stem.partition(".")
    began = time.perf_counter()
    try:
        return _figures(name, exporter, _twice(path, samples))
    except OnnxfcError as error:
        outcome = "refused" if isinstance(error, NothingToRewrite) else "failed"
        seconds = f"{time.perf_counter() - began:.0f}"
        return Row(name, exporter, outcome, verdict=f"{outcome}: {error}", seconds=seconds)


def _twice(path: Path, samples: int) -> Rewrite:
    """Rewritten once to learn the stride, then proven at a third larger size besides the usual two."""
    claim = rewrite(path, prove=False).claim
    third = tuple(length + 2 * stride for length, stride in zip(claim.native_size, claim.stride, strict=True))
    return rewrite(path, check_options=CheckOptions(check_sizes=(third,), samples=samples))


def _figures(name: str, exporter: str, result: Rewrite) -> Row:
    parity = result.parity
    assert parity is not None
    original = {node.SerializeToString(deterministic=True) for node in result.original.proto.graph.node}
    nodes = [node.SerializeToString(deterministic=True) for node in result.file.proto.graph.node]
    return Row(
        name,
        exporter,
        "proven",
        f"{sum(node not in original for node in nodes)} of {len(nodes)}",
        result.claim.verdict,
        f"{parity.native.deviation:.0e}",
        f"{parity.window.deviation:.0e}",
        f"{parity.crops.deviation:.1%}, {parity.crops.median:.1%}",
        f"{result.seconds[0]:.1f} + {result.seconds[1]:.0f}",
    )


if __name__ == "__main__":
    main()
