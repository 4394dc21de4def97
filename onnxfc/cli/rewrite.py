"""``onnxfc rewrite``: parse, call, render, exit code; nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from onnxfc.cli.common import (
    EPILOG,
    INPUT_SHAPE,
    MEMORY,
    PROFILE,
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
    is_node_data,
    load_data,
    progress_line,
    report_path,
    told,
    write_report,
)
from onnxfc.cli.main_group import complain, show
from onnxfc.cli.rewriting import REWRITING
from onnxfc.cli.values import Memory, ModelPath, Size, Tolerance
from onnxfc.errors import ExitCode, OnnxfcError, UsageError, WriteError

if TYPE_CHECKING:
    from onnxfc.proof.options import CheckOptions
    from onnxfc.rewriter.api import Rewrite


_OF_PROOF = ("rtol", "atol", "check_sizes", "data", "provider", "timeout", "memory")
"""Options that say how to prove."""


@click.command(
    cls=Grouped,
    short_help="Make IN run on any image size, prove it, write OUT.",
    epilog=EPILOG,
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)
@click.argument("models", metavar="IN OUT", nargs=-1, required=True, type=ModelPath())
@click.option(
    "-o", "--out", type=ModelPath(), metavar="OUT", help="Where the result goes, instead of a second argument."
)
@click.option(
    "--out-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Rewrite all models given, each into DIR under its own name; what is refused does not stop the others; "
    "the exit code is the largest of all.",
)
@added(*REWRITING)
@click.option("--dynamic-batch", is_flag=True, help="Free the batch dim as well.")
@click.option(
    "--per-window-scale", is_flag=True, help="Take the scales of a dynamically quantised head from each window."
)
@click.option("--dequantize-head", is_flag=True, help="Write a head's weights in blocks of few bits in floats.")
@click.option(
    "--fixed-size",
    type=Size(),
    help="Write a model for images of this size alone: all lengths are numbers, nothing computes them any more.",
)
@click.option(
    "--form",
    type=click.Choice(["conv4d", "gemm"]),
    help="conv4d: for accelerators, at --fixed-size or the native size; Conv for every FC layer, all tensors "
    "(1, C, H, W), every attribute of a Conv written. gemm: the way back, for batches at the native size; Gemm for "
    "every Conv that covers its map. IN may be what onnxfc wrote.",
)
@click.option("--keep-output-shape", is_flag=True, help="With --form conv4d: outputs in the original's own shape.")
@click.option(
    "--max-kernel",
    type=click.IntRange(min=1),
    metavar="K",
    help="With --form conv4d: write kernels above KxK with smaller ones, as Reshape and 1x1 or as a sum.",
)
@click.option(
    "--max-pool",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --form conv4d: write pools over more than N places as two, over columns and over rows.",
)
@click.option("--profile", metavar="NAME", help=PROFILE)
@click.option("--size", type=Size(), help="Native image size, where the model's input leaves it open.")
@INPUT_SHAPE
@click.option("--no-check", is_flag=True, help="Do not prove the result with onnxruntime before writing it.")
@click.option("--rtol", type=Tolerance(min=0), metavar="X", help="Tolerance relative to each output's own signal.")
@click.option("--atol", type=Tolerance(min=0), metavar="X", help="Absolute tolerance.")
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed of the proof's inputs."
)
@click.option(
    "--samples", type=click.IntRange(min=2), metavar="N", default=3, show_default=True, help="Inputs at native size."
)
@click.option(
    "--check-size", "check_sizes", type=Size(), multiple=True, help="Prove at this image size too; may be repeated."
)
@click.option(
    "--data",
    multiple=True,
    metavar="[INPUT=]FILE.npy",
    help="Real inputs for the proof, batch first; for several inputs NAME=FILE.npy, repeated.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, metavar="N", help=THREADS)
@click.option("--provider", default="", metavar="NAME[:KEY=VALUE,...]", help=PROVIDER)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=TIMEOUT)
@click.option("--memory", type=Memory(), help=MEMORY)
@click.option("--save-as-external-data", is_flag=True, help="Write the weights beside OUT instead of into it.")
@click.option("--all-tensors-to-one-file", is_flag=True, help="Beside OUT: one file for all weights.")
@click.option("--external-data-location", metavar="NAME", help="The name of that one file.")
@click.option(
    "--external-data-size-threshold",
    type=click.IntRange(min=0),
    metavar="BYTES",
    default=1024,
    show_default=True,
    help="Weights of fewer bytes stay in OUT.",
)
@added(*REPORT)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes, outputs and notes.")
def rewrite(
    models: tuple[Path, ...],
    out: Path | None,
    out_dir: Path | None,
    report: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Rewrite the model IN so that it runs on any image size, prove it, and write it to OUT.

    The fully-connected head becomes Conv nodes with the same weights. OUT is written only when onnxruntime
    shows that it computes the same.

    \b
    onnxfc rewrite in.onnx out.onnx
    onnxfc rewrite a.onnx b.onnx --out-dir any-size
    """
    report = report_path(report, as_json)
    if out_dir is not None:
        if out is not None:
            raise click.UsageError("-o names one OUT; leave out --out-dir")
        _all(models, out_dir, report, quiet, options)
    source, target = _pair(models, out)
    _one(source, target, report, quiet, verbose, options)


def _pair(models: tuple[Path, ...], out: Path | None) -> tuple[Path, Path]:
    if len(models) + (out is not None) < 2:
        raise click.UsageError("Missing argument 'OUT' (or give -o OUT, or --out-dir DIR).")
    if len(models) + (out is not None) > 2:
        raise click.UsageError("give one IN and one OUT, or --out-dir for several models")
    return models[0], models[1] if out is None else out


def _all(models: tuple[Path, ...], folder: Path, report: Path | None, quiet: bool, options: dict[str, Any]) -> NoReturn:
    """A line for each model, and how many there were of which kind, in the report, too; leaves with the worst exit
    code."""
    from onnxfc.reports import rewrite as reports

    names = [path.name for path in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.UsageError(f"--out-dir: several models are called {', '.join(sorted(twice))}")
    targets = [folder / name for name in names]
    data = [path for target in targets for path in _data_names(target, report, options["external_data_location"])]
    _make_folder(folder, report, [*models, *targets, *data])
    codes, documents = [], []
    quiet = quiet or report == STDOUT
    for source, target in zip(models, targets, strict=True):
        try:
            result, _ = _rewritten(source, target, options, quiet)
        except OnnxfcError as error:
            complain(told(error, source, one_of_many=True))
            codes.append(error.exit_code)
            documents.append(_document(source, target, error))
            continue
        codes.append(ExitCode.DONE)
        documents.append(_document(source, target, result))
        if not quiet:
            show(encodable(f"{source}: {_in_a_line(result)}"))
    if report is not None:
        write_report(report, reports.several_as_json(documents, max(codes)))
    if not quiet:
        kinds = ((ExitCode.DONE, "rewritten"), (ExitCode.NOTHING, "refused"), (ExitCode.PROOF, "not proven"))
        counts = [f"{codes.count(code)} {kind}" for code, kind in kinds if code in codes]
        more = [f"{failed} failed"] if (failed := sum(code in (ExitCode.IO, ExitCode.USAGE) for code in codes)) else []
        show(f"{len(models)} model{'s' * (len(models) > 1)}: {', '.join(counts + more)}")
    raise SystemExit(int(max(codes)))


def _make_folder(folder: Path, report: Path | None, models: list[Path]) -> None:
    """Once it is known that the report can be written, which may lie in it."""
    inside = report is not None and os.path.realpath(report.parent) == os.path.realpath(folder)
    if not inside:
        check_report(report, *models)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(WriteError(f"{folder}: cannot be made: {error.strerror}"), verbose=False)
    if inside:
        check_report(report, *models)


def _in_a_line(result: Rewrite) -> str:
    claim = result.claim
    proof = "not proven" if result.parity is None else result.parity.summary()
    return f"{claim.verdict}, native size {'x'.join(map(str, claim.native_size))} px, {proof}"


def _one(source: Path, target: Path, report: Path | None, quiet: bool, verbose: bool, options: dict[str, Any]) -> None:
    from onnxfc.reports import rewrite as reports

    check_report(report, source, target, *_data_names(target, report, options["external_data_location"]), nodes=True)
    try:
        result, data = _rewritten(source, target, options, quiet)
    except OnnxfcError as error:
        _report(report, source, target, error)
        fail(error, verbose, source=source)
    _report(report, source, target, result)
    if not quiet and report != STDOUT:
        lines = [
            reports.text(result, verbose),
            *reports.weights(data),
            *reports.written(source, target, result, verbose),
        ]
        show(encodable("\n".join(lines)))


def _report(report: Path | None, source: Path, target: Path, done: Rewrite | OnnxfcError) -> None:
    """Of a result, or of what kept the model from being rewritten; node data are those of OUT."""
    from onnxfc.reports import nodes

    if report is None:
        return
    if not is_node_data(report):
        write_report(report, _document(source, target, done))
    elif isinstance(done, OnnxfcError):
        write_report(report, nodes.node_data((), refusals=getattr(done, "refusals", ())))
    else:
        from onnxfc.inspector import inspect

        write_report(report, nodes.node_data(inspect(done).nodes, done.claim.blames))


def _document(source: Path, target: Path, done: Rewrite | OnnxfcError) -> dict[str, Any]:
    from onnxfc.reports import rewrite as reports

    document = reports.error_as_json(done) if isinstance(done, OnnxfcError) else reports.as_json(done)
    return document | {"input": str(source), "output": str(target)}


def _data_names(target: Path, report: Path | None, location: str | None) -> list[Path]:
    """Files beside OUT that its weights may go to, as far as the report could be one of them."""
    names = [target.parent / f"{target.name}.data", target.parent / (location or target.name)]
    if report is not None and report.name.startswith(f"{target.name}.") and report.suffix == ".data":
        names.append(target.parent / report.name)  # one file for each tensor
    return names


def _checks(options: dict[str, Any]) -> CheckOptions:
    from onnxfc.proof.options import CheckOptions

    return CheckOptions(**{name: options[name] for name in ("rtol", "atol", *PROVING)}, data=load_data(options["data"]))


def _rewritten(source: Path, target: Path, options: dict[str, Any], quiet: bool) -> tuple[Rewrite, list[Path]]:
    from onnxfc.io.model_file import ModelFile
    from onnxfc.io.save import SaveOptions
    from onnxfc.rewriter.api import rewrite as run
    from onnxfc.rewriter.options import RewriteOptions

    placing = ("save_as_external_data", "all_tensors_to_one_file", "external_data_location")
    save = SaveOptions(
        **{name: options[name] for name in placing},
        external_data_size_threshold=options["external_data_size_threshold"],
    )
    if options["no_check"] and (given := [name for name in _OF_PROOF if options[name] not in (None, (), "")]):
        option = "--check-size" if given[0] == "check_sizes" else "--" + given[0]
        raise UsageError(f"{option} is for the proof, which --no-check leaves out; drop one of them")
    model = ModelFile.open(source)
    model.check_target(target, save)
    names = (
        *("output", "global_pool", "dynamic_batch", "per_window_scale", "dequantize_head", "size", "inputs"),
        *("free", "output_at", "grids", "grow"),
        *("fixed_size", "form", "keep_output_shape", "max_kernel", "max_pool", "profile"),
    )
    shapes = by_name(options["input_shapes"])
    wanted = RewriteOptions(**{name: options[name] for name in names}, input_shapes=shapes)
    checks = None if options["no_check"] else _checks(options)
    progress, clear = progress_line(quiet)
    try:
        result = run(model, options=wanted, check_options=checks, prove=not options["no_check"], progress=progress)
        progress(f"writing {target}")
        data = result.save(target, save)
    finally:
        clear()
    return result, data
