"""``onnxfc rewrite``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxfc.cli.common import (
    EPILOG,
    MEMORY,
    PROVIDER,
    STDOUT,
    TIMEOUT,
    ModelPath,
    ReportPath,
    Size,
    Tolerance,
    check_report,
    encodable,
    fail,
    load_data,
    progress_line,
    write_report,
)
from onnxfc.cli.main_group import show
from onnxfc.errors import OnnxfcError, UsageError

if TYPE_CHECKING:
    from onnxfc.proof.options import CheckOptions
    from onnxfc.rewriter.api import Rewrite


_OF_PROOF = ("rtol", "atol", "check_size", "data", "provider", "timeout", "memory")
"""Options that say how to prove."""


@click.command(epilog=EPILOG, context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
@click.argument("source", metavar="IN", type=ModelPath())
@click.argument("target", metavar="OUT", type=ModelPath())
@click.option(
    "--output",
    type=click.Choice(["map", "mean", "max"]),
    default="map",
    show_default=True,
    help="What the outputs are: a map with one cell per window, (N, K, gH, gW), or its mean or max over all cells, "
    "in the original's own shape.",
)
@click.option(
    "--global-pool",
    type=click.Choice(["window", "keep", "drop"]),
    default="window",
    show_default=True,
    help="A head behind a global pool: pool every native window, keep one vector at any size, or drop the pool "
    "(a class activation map; affine heads only).",
)
@click.option("--dynamic-batch", is_flag=True, help="Free the batch dim as well.")
@click.option("--size", type=Size(), help="Native image size, where the model's input leaves it open.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME",
    help="The image input, where several look like one; or an inner tensor (N, C, H, W), which becomes the input.",
)
@click.option("--no-check", is_flag=True, help="Do not prove the result with onnxruntime before writing it.")
@click.option("--rtol", type=Tolerance(min=0), help="Tolerance relative to each output's own signal.")
@click.option("--atol", type=Tolerance(min=0), help="Absolute tolerance.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the proof's inputs.")
@click.option("--samples", type=click.IntRange(min=2), default=3, show_default=True, help="Inputs at native size.")
@click.option("--check-size", type=Size(), multiple=True, help="Prove at this image size too; may be repeated.")
@click.option(
    "--data",
    multiple=True,
    metavar="[INPUT=]FILE.npy",
    help="Real inputs for the proof, batch first; for several inputs NAME=FILE.npy, repeated.",
)
@click.option("--provider", default="", metavar="NAME[:KEY=VALUE,...]", help=PROVIDER)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=TIMEOUT)
@click.option("--memory", type=click.IntRange(min=1), metavar="MB", help=MEMORY)
@click.option("--save-as-external-data", is_flag=True, help="Write the weights beside OUT instead of into it.")
@click.option("--all-tensors-to-one-file", is_flag=True, help="With external data: one file for all weights.")
@click.option("--external-data-location", metavar="NAME", help="With external data: the name of that one file.")
@click.option(
    "--external-data-size-threshold",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="With external data: weights below this many bytes stay in OUT.",
)
@click.option(
    "--report", type=ReportPath(), help="Write the report: JSON, or a page if FILE ends in .html; - prints it."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes, outputs and notes.")
def rewrite(source: Path, target: Path, report: Path | None, quiet: bool, verbose: bool, **options: Any) -> None:
    """Rewrite the model IN so that it runs on any image size, prove it, and write it to OUT.

    The fully-connected head becomes Conv nodes with the same weights. OUT is written only when onnxruntime
    shows that it computes the same.
    """
    from onnxfc.reports import rewrite as reports

    check_report(report, source, target, *_data_names(target, report, options["external_data_location"]))
    try:
        result, data = _rewritten(source, target, options, quiet)
    except OnnxfcError as error:
        if report is not None:
            write_report(report, reports.error_as_json(error) | {"input": str(source), "output": str(target)})
        fail(error, verbose)
    if report is not None:
        write_report(report, reports.as_json(result) | {"input": str(source), "output": str(target)})
    if not quiet and report != STDOUT:
        show(encodable("\n".join([reports.text(result, verbose), *reports.weights(data)])))


def _data_names(target: Path, report: Path | None, location: str | None) -> list[Path]:
    """Files beside OUT that its weights may go to, as far as the report could be one of them."""
    names = [target.parent / f"{target.name}.data", target.parent / (location or target.name)]
    if report is not None and report.name.startswith(f"{target.name}.") and report.suffix == ".data":
        names.append(target.parent / report.name)  # one file for each tensor
    return names


def _checks(options: dict[str, Any]) -> CheckOptions:
    from onnxfc.proof.options import CheckOptions

    return CheckOptions(
        rtol=options["rtol"],
        atol=options["atol"],
        seed=options["seed"],
        samples=options["samples"],
        sizes=options["check_size"],
        data=load_data(options["data"]),
        provider=options["provider"],
        timeout=options["timeout"],
        memory=options["memory"],
    )


def _rewritten(source: Path, target: Path, options: dict[str, Any], quiet: bool) -> tuple[Rewrite, list[Path]]:
    from onnxfc.io.model_file import ModelFile
    from onnxfc.io.save import SaveOptions
    from onnxfc.rewriter.analyse import RewriteOptions
    from onnxfc.rewriter.api import rewrite as run

    names = ("save_as_external_data", "all_tensors_to_one_file", "external_data_location")
    save = SaveOptions(
        **{name: options[name] for name in names},
        external_data_size_threshold=options["external_data_size_threshold"],
    )
    if options["no_check"] and (given := [name for name in _OF_PROOF if options[name] not in (None, (), "")]):
        option = "--" + given[0].replace("_", "-")
        raise UsageError(f"{option} is for the proof, which --no-check leaves out; drop one of them")
    model = ModelFile.open(source)
    model.check_target(target, save)
    wanted = RewriteOptions(
        options["output"], options["global_pool"], options["dynamic_batch"], options["size"], options["inputs"]
    )
    checks = None if options["no_check"] else _checks(options)
    progress, clear = progress_line(quiet)
    try:
        result = run(model, options=wanted, check_options=checks, prove=not options["no_check"], progress=progress)
        progress(f"writing {target}")
        data = result.save(target, save)
    finally:
        clear()
    return result, data
