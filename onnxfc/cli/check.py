"""``onnxfc check``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxfc.cli.common import (
    INPUT_SHAPE,
    MEMORY,
    PROVIDER,
    PROVING,
    REPORT,
    STDOUT,
    THREADS,
    TIMEOUT,
    Grouped,
    added,
    by_name,
    check_report,
    encodable,
    fail,
    load_data,
    printable,
    progress_line,
    report_path,
    write_bytes,
    write_report,
)
from onnxfc.cli.main_group import complain, show
from onnxfc.cli.values import Memory, ModelPath, ReportPath, Size
from onnxfc.errors import ExitCode, NothingToRewrite, OnnxfcError, UsageError

if TYPE_CHECKING:
    from onnxfc.checker.api import Checked


_EPILOG = (
    "Exit codes: 0 passed; 1 cannot read or write; 2 wrong usage; 3 the original has no image input; "
    "4 the models do not agree, or nothing could be compared."
)


@click.command(cls=Grouped, short_help="Say whether two models compute the same.", epilog=_EPILOG)
@click.argument("original", type=ModelPath())
@click.argument("other", type=ModelPath())
@click.option(
    "--boundary",
    "boundaries",
    multiple=True,
    metavar="NAME[=OTHERNAME]",
    help="A trunk tensor of both models, at which their heads begin, where that is not found; may be repeated.",
)
@click.option("--size", type=Size(), help="Native image size, where the original's input leaves it open.")
@INPUT_SHAPE
@click.option(
    "--data",
    multiple=True,
    metavar="[INPUT=]FILE.npy",
    help="Real inputs, batch first; for several inputs NAME=FILE.npy, repeated.",
)
@click.option(
    "--rtol",
    multiple=True,
    metavar="[NAME:]NUMBER",
    help="Tolerance relative to the signal of each output, or of the output NAME; may be repeated.",
)
@click.option("--atol", multiple=True, metavar="[NAME:]NUMBER", help="Absolute tolerance, of one output too.")
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed of the inputs."
)
@click.option(
    "--samples", type=click.IntRange(min=2), metavar="N", default=3, show_default=True, help="Inputs at native size."
)
@click.option(
    "--check-size", "check_sizes", type=Size(), multiple=True, help="Check at this image size too; may be repeated."
)
@click.option(
    "--against-crops",
    type=click.Choice(["measure", "exact"]),
    default="measure",
    show_default=True,
    help="Whether cells must equal the original run on crops of the image.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, metavar="N", help=THREADS)
@click.option("--provider", default="", metavar="NAME[:KEY=VALUE,...]", help=PROVIDER)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=TIMEOUT)
@click.option("--memory", type=Memory(), help=MEMORY)
@added(*REPORT)
@click.option("--junit", type=ReportPath(), help="Write the result as JUnit XML; - prints it.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes and outputs.")
def check(
    original: Path,
    other: Path,
    report: Path | None,
    as_json: bool,
    junit: Path | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Check whether OTHER computes what ORIGINAL computes: at its native size, and window by window on larger images.

    OTHER may be what `onnxfc rewrite` wrote, or a model that somebody else made of ORIGINAL.

    \b
    onnxfc check in.onnx out.onnx --data images.npy
    """
    from onnxfc.reports import check as report_check
    from onnxfc.reports import junit as junits

    report = report_path(report, as_json)
    check_report(report, original, other)
    check_report(junit, original, other, option="--junit")
    if report is not None and junit is not None and os.path.realpath(report) == os.path.realpath(junit):
        fail(UsageError(f"--junit {junit}: is the file of --report too; give it one of its own"), verbose)
    name = f"{original.name} against {other.name}"
    try:
        result = _checked(original, other, options, quiet)
    except OnnxfcError as error:
        if report is not None:
            write_report(report, report_check.error_as_json(error) | _names(original, other))
        if junit is not None:
            write_bytes(junit, junits.error_as_xml(str(error), name))
        fail(error, verbose, source=original if isinstance(error, NothingToRewrite) else other, writes=False)
    if report is not None:
        write_report(report, report_check.as_json(result) | _names(original, other))
    if junit is not None:
        write_bytes(junit, junits.as_xml(result, name))
    if not quiet and STDOUT not in (report, junit):
        show(encodable(report_check.text(result, verbose)))
    if not result.passed:
        complain(encodable(f"onnxfc: {printable(f'{other}: {result.parity.summary()}')}"))
        raise SystemExit(int(ExitCode.PROOF))


def _names(original: Path, other: Path) -> dict[str, str]:
    return {"original": str(original), "other": str(other)}


def _checked(original: Path, other: Path, options: Mapping[str, Any], quiet: bool) -> Checked:
    rtol, rtols = _tolerances(options["rtol"], "--rtol")
    atol, atols = _tolerances(options["atol"], "--atol")
    boundaries = [_pair(item) for item in options["boundaries"]]

    from onnxfc.checker.api import check_pair
    from onnxfc.proof.options import CheckOptions

    wanted = CheckOptions(
        **{name: options[name] for name in ("against_crops", *PROVING)},
        rtol=rtol,
        atol=atol,
        rtols=rtols,
        atols=atols,
        data=load_data(options["data"]),
    )
    progress, clear = progress_line(quiet)
    try:
        return check_pair(
            original,
            other,
            options=wanted,
            size=options["size"],
            input_shapes=by_name(options["input_shapes"]),
            boundaries=boundaries,
            progress=progress,
        )
    finally:
        clear()


def _tolerances(given: tuple[str, ...], option: str) -> tuple[float | None, dict[str, float]]:
    """The tolerance of all outputs, and those of single ones."""
    everywhere, single = None, {}
    for item in given:
        name, colon, text = item.rpartition(":")
        try:
            number = float(text) if name or not colon else -1.0
        except ValueError:
            number = -1.0
        if not math.isfinite(number) or number < 0:
            raise click.BadParameter(f"{item!r} is no number from 0 on, such as 1e-3 or scores:1e-3", param_hint=option)
        if name:
            single[name] = number
        else:
            everywhere = number
    return everywhere, single


def _pair(text: str) -> tuple[str, str]:
    """``NAME`` or ``NAME=OTHERNAME``."""
    name, equals, other = text.partition("=")
    if not name or (equals and not other):
        raise click.BadParameter(f"{text!r} is not NAME or NAME=OTHERNAME", param_hint="--boundary")
    return name, other or name
