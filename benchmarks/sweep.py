"""Rewrite and prove every model of a folder, and print a table: what was changed, the verdict, the measured results.

    python benchmarks/export_torchvision.py --models all --out exports
    python benchmarks/sweep.py exports

Each model is proven at its native size and at three larger ones (on the stride grid, off it, and at one more).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from onnxfc.errors import OnnxfcError
from onnxfc.proof import CheckOptions
from onnxfc.rewrite import Rewrite, rewrite

HEADER = "| model | nodes changed | verdict | native | window | crops: largest, median | rewritten | proven |"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--match", default="*.onnx", show_default=True, help="Which files of the folder.")
def main(folder: Path, match: str) -> None:
    """Print one row per model of FOLDER; exit 1 if a proof failed."""
    click.echo(HEADER)
    click.echo("|---" * (HEADER.count("|") - 1) + "|")
    failed = 0
    for path in sorted(folder.glob(match)):
        began = time.perf_counter()
        try:
            row = _row(_twice(path))
        except OnnxfcError as error:
            row = f"{error} | {time.perf_counter() - began:.1f} s"
            failed += error.exit_code != 3
        click.echo(f"| {path.stem} | {row} |")
    sys.exit(min(failed, 1))


def _twice(path: Path) -> Rewrite:
    """Rewritten once to learn the stride, then proven at a third larger size besides the usual two."""
    claim = rewrite(path, prove=False).claim
    third = tuple(length + 2 * stride for length, stride in zip(claim.native_size, claim.stride, strict=True))
    return rewrite(path, check_options=CheckOptions(sizes=(third,)))


def _row(result: Rewrite) -> str:
    parity = result.parity
    assert parity is not None
    original = {node.SerializeToString(deterministic=True) for node in result.original.proto.graph.node}
    nodes = [node.SerializeToString(deterministic=True) for node in result.file.proto.graph.node]
    changed = sum(node not in original for node in nodes)
    crops = f"{parity.crops.deviation:.1%}, {parity.crops.median:.1%}"
    figures = f"{parity.native.deviation:.0e} | {parity.window.deviation:.0e} | {crops}"
    seconds = f"{result.seconds[0]:.2f} s | {result.seconds[1]:.1f} s"
    return f"{changed} of {len(nodes)} | {result.claim.verdict} | {figures} | {seconds}"


if __name__ == "__main__":
    main()
