"""``onnxfc inspect``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

from pathlib import Path

import click

from onnxfc.cli.common import (
    INPUT_SHAPE,
    PROFILE,
    REPORT,
    STDOUT,
    Grouped,
    added,
    by_name,
    check_report,
    encodable,
    fail,
    is_node_data,
    report_path,
    write_report,
)
from onnxfc.cli.main_group import show
from onnxfc.cli.rewriting import REWRITING
from onnxfc.cli.values import ModelPath, Shape, Size
from onnxfc.errors import OnnxfcError

_EPILOG = "Exit codes: 0 done, whether the model can be rewritten or not; 1 cannot read; 2 wrong usage."


@click.command(cls=Grouped, short_help="Say what a model is and what a rewrite would do.", epilog=_EPILOG)
@click.argument("model", type=ModelPath())
@click.option(
    "--at", type=Size(), help="Image size to count cells, multiply-adds and memory for; twice native if not given."
)
@click.option("--size", type=Size(), help="Native image size, where the model's input leaves it open.")
@INPUT_SHAPE
@click.option("--profile", metavar="NAME", help=PROFILE)
@added(*REWRITING)
@added(*REPORT)
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes, refusals and notes.")
def inspect(
    model: Path,
    at: tuple[int, ...] | None,
    size: tuple[int, ...] | None,
    output: str,
    global_pool: str,
    free: tuple[str, ...],
    inputs: tuple[str, ...],
    input_shapes: tuple[Shape, ...],
    profile: str | None,
    output_at: tuple[str, ...],
    grids: str | None,
    grow: str | None,
    report: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Say what MODEL is and what a rewrite would do. Nothing is run, nothing is written.

    MODEL may be an original or what `onnxfc rewrite` wrote.

    \b
    onnxfc inspect in.onnx --at 1024x1024
    """
    from onnxfc.inspector import inspect as look
    from onnxfc.reports import inspect as report_inspect
    from onnxfc.reports.nodes import node_data
    from onnxfc.rewriter.options import RewriteOptions

    report = report_path(report, as_json)
    check_report(report, model, nodes=True)
    try:
        options = RewriteOptions(
            output,  # type: ignore[arg-type]
            global_pool,  # type: ignore[arg-type]
            size=size,
            inputs=inputs,
            input_shapes=by_name(input_shapes),
            free=free,
            output_at=output_at,
            grids=grids,  # type: ignore[arg-type]
            grow=grow,  # type: ignore[arg-type]
        )
        seen = look(model, options=options, at=at, profile=profile)
    except OnnxfcError as error:
        if report is not None:
            write_report(report, report_inspect.error_as_json(error, model))
        fail(error, verbose)
    if report is not None and is_node_data(report):
        write_report(report, node_data(seen.nodes, () if seen.claim is None else seen.claim.blames, seen.refusals))
    elif report is not None:
        write_report(report, report_inspect.as_json(seen))
    if report != STDOUT:
        show(encodable(report_inspect.text(seen, verbose)))
