"""``onnxfc scan``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import click

from onnxfc.cli.common import (
    PROVIDER,
    REPORT,
    STDOUT,
    Grouped,
    added,
    check_report,
    encodable,
    fail,
    progress_line,
    report_path,
    write_report,
)
from onnxfc.cli.main_group import show
from onnxfc.cli.values import Memory, ModelPath, Numbers, ReportPath, Size, fraction, name_or_number
from onnxfc.errors import OnnxfcError, UsageError

_EPILOG = (
    "Exit codes: 0 done; 1 cannot read or write; 2 wrong usage; 3 MODEL cannot be rewritten, reasons given; "
    "4 its proof failed; 130 interrupted: --resume goes on."
)


_PIXELS = (
    click.option(
        "--level", type=click.IntRange(min=0), metavar="N", default=0, help="Level of a pyramid; 0 is the largest."
    ),
    click.option(
        "--region", type=Numbers("X,Y,W,H", int, "0,0,512,512", 4), help="Only this part, in pixels of the level."
    ),
    click.option(
        "--resample", type=Numbers("FACTOR", fraction, "0.5", 1), help="Resize the image by this factor first."
    ),
    click.option("--bands", type=Numbers("B,B,..", int, "1,2,3"), default=(), help="Which bands, counted from 1."),
    click.option("--scale", type=Numbers("X", fraction, "1/255", 1), help="Multiply pixels by this (1/255, say)."),
    click.option(
        "--mean",
        type=Numbers("X,X,..", fraction, "0.5,0.5,0.5"),
        default=(),
        help="Then subtract this from the bands.",
    ),
    click.option(
        "--std", type=Numbers("X,X,..", fraction, "0.5,0.5,0.5"), default=(), help="Then divide the bands by this."
    ),
    click.option("--bgr", is_flag=True, help="Give the model the bands in reverse order."),
    click.option(
        "--edge",
        type=click.Choice(["none", "reflect", "constant"]),
        default="none",
        show_default=True,
        help="Grow the image at its bottom and right, so that cells cover every pixel.",
    ),
    click.option("--no-data", type=float, metavar="V", help="Cells whose pixels all have this value are NaN."),
)
_SCORES = (
    click.option("--output", metavar="NAME", help="The model's output, where several are maps."),
    click.option("--size", type=Size(), help="Native size of an original that leaves it open."),
    click.option("--no-check", is_flag=True, help="Do not prove an original's rewriting."),
    click.option(
        "--activation",
        type=click.Choice(["none", "softmax", "sigmoid"]),
        default="none",
        show_default=True,
        help="What scores go through.",
    ),
    click.option(
        "--class",
        "classes",
        type=Numbers("NAME|K", name_or_number, "3", 1),
        multiple=True,
        help="Keep only this class.",
    ),
    click.option(
        "--top",
        type=click.IntRange(min=1),
        metavar="N",
        default=100,
        show_default=True,
        help="How many cells a list has.",
    ),
    click.option("--threshold", type=float, metavar="X", help="List all cells that score X or more."),
    click.option("--reduce", type=click.Choice(["mean", "max"]), help="One vector over all cells, not a map."),
    click.option(
        "--exact",
        type=click.Choice(["cells", "crops"]),
        default="cells",
        show_default=True,
        help="crops: run every cell's crop alone, as the original would, which takes longer.",
    ),
    click.option("--compare", type=click.IntRange(min=0), default=0, metavar="N", help="Compare N cells with crops."),
    click.option(
        "--context",
        type=click.Choice(["whole", "per-tile"]),
        default="whole",
        show_default=True,
        help="What a model that looks at the whole image looks at.",
    ),
)
_WORK = (
    click.option(
        "--memory",
        type=Memory(),
        help="Memory for tiles; a number of MB, or 2G, say; default: a quarter of what is free.",
    ),
    click.option("--tile", type=click.IntRange(min=1), metavar="CELLS", help="Cells of a tile's side, instead."),
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        metavar="N",
        default=1,
        show_default=True,
        help="Tiles that are run at once.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Threads that compute; 0: one for each processor.",
    ),
    click.option("--provider", default="", metavar="NAME[:KEY=VALUE,...]", help=PROVIDER),
    click.option("--resume", is_flag=True, help="Go on where an earlier run was ended; keep what is done on errors."),
    click.option("--dask", metavar="ADDRESS", help="Run tiles on the Dask cluster with this scheduler."),
)


class _Scan(Grouped):
    groups: ClassVar[Mapping[str, str]] = {
        **Grouped.groups,
        **dict.fromkeys(("level", "region", "resample", "bands", "scale"), "The image"),
        **dict.fromkeys(("mean", "std", "bgr", "edge", "no_data"), "The image"),
        **dict.fromkeys(("activation", "classes", "top", "threshold", "reduce", "exact", "compare"), "The result"),
        **dict.fromkeys(("no_check", "context"), "The model"),
    }
    rest = "The work"


@click.command(cls=_Scan, short_help="Run a model over a large image, write the map.", epilog=_EPILOG)
@click.argument("model", type=ModelPath())
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("outs", metavar="OUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@added(*_PIXELS, *_SCORES, *_WORK)
@click.option("--report", type=ReportPath(), help="Write the report as JSON; - prints it.")
@added(REPORT[1])
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print all refusals of a model.")
def scan(
    model: Path,
    image: Path,
    outs: tuple[Path, ...],
    report: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    dask: str | None,
    no_check: bool,
    **options: Any,
) -> None:
    """Run MODEL over IMAGE, however large, and write the map of its scores to OUT.

    MODEL may be an original, which is rewritten on the way. IMAGE: .tif, .svs, .png, .jpg, .npy, .zarr and others.
    OUT, one or several: .npy, .tif, .zarr, .png (a picture), .csv or .geojson (the best cells).

    \b
    onnxfc scan model.onnx slide.tif map.tif map.png --scale 1/255
    """
    from onnxfc.reports import scan as reports
    from onnxfc.scanner.api import run_scan
    from onnxfc.scanner.options import ScanOptions

    report = report_path(report, as_json)
    check_report(report, model, image, *outs)
    if report is not None and report.suffix.lower() in {".html", ".htm"}:
        fail(UsageError(f"--report {report}: is JSON; a picture of the map is an OUT, map.png"), verbose)
    names = {"model": str(model), "image": str(image)}
    progress, clear = progress_line(quiet)
    try:
        wanted = ScanOptions(**options, prove=not no_check)
        done = run_scan(model, image, outs, options=wanted, dask=dask, progress=progress, keep=False)
    except OnnxfcError as error:
        clear()
        if report is not None:
            write_report(report, reports.error_as_json(error) | names)
        fail(error, verbose, source=model)
    clear()
    if report is not None:
        write_report(report, reports.as_json(done, outs) | names)
    if not quiet and report != STDOUT:
        show(encodable(reports.text(done, outs)))
