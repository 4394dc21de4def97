"""``onnxfc inspect``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

from pathlib import Path

import click

from onnxfc.cli.common import STDOUT, Grouped, ModelPath, ReportPath, Size, check_report, encodable, fail, write_report
from onnxfc.cli.main_group import show
from onnxfc.errors import OnnxfcError

_EPILOG = "Exit codes: 0 done, whether the model can be rewritten or not; 1 cannot read; 2 wrong usage."


@click.command(cls=Grouped, epilog=_EPILOG)
@click.argument("model", type=ModelPath())
@click.option("--at", type=Size(), help="Image size to count cells and costs for; twice native if not given.")
@click.option("--size", type=Size(), help="Native image size, where the model's input leaves it open.")
@click.option(
    "--output", type=click.Choice(["map", "mean", "max"]), default="map", show_default=True, help="As for rewrite."
)
@click.option(
    "--global-pool",
    type=click.Choice(["window", "keep", "drop"]),
    default="window",
    show_default=True,
    help="As for rewrite.",
)
@click.option(
    "--free", multiple=True, type=click.Choice(["depth", "height", "width", "length"]), help="As for rewrite."
)
@click.option("--input", "inputs", multiple=True, metavar="NAME", help="As for rewrite.")
@click.option("--output-at", multiple=True, metavar="NAME", help="As for rewrite.")
@click.option(
    "--report", type=ReportPath(), help="Write the report: JSON, or a page if FILE ends in .html; - prints it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON: --report -.")
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes, refusals and notes.")
def inspect(
    model: Path,
    at: tuple[int, ...] | None,
    size: tuple[int, ...] | None,
    output: str,
    global_pool: str,
    free: tuple[str, ...],
    inputs: tuple[str, ...],
    output_at: tuple[str, ...],
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
    from onnxfc.rewriter.analyse import RewriteOptions

    report = STDOUT if as_json else report
    check_report(report, model)
    try:
        options = RewriteOptions(
            output,  # type: ignore[arg-type]
            global_pool,  # type: ignore[arg-type]
            size=size,
            inputs=inputs,
            free=free,
            output_at=output_at,
        )
        seen = look(model, options=options, at=at)
    except OnnxfcError as error:
        fail(error, verbose)
    if report is not None:
        write_report(report, report_inspect.as_json(seen))
    if report != STDOUT:
        show(encodable(report_inspect.text(seen, verbose)))
