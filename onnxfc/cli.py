"""The command line: parse, call, render, exit code; nothing else.

onnx and onnxruntime are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from onnxfc import __version__
from onnxfc.errors import ExitCode, NothingToRewrite, OnnxfcError, ProofFailed, ReadError, UsageError, WriteError

if TYPE_CHECKING:
    from onnxfc.rewrite import Rewrite


if TYPE_CHECKING:
    _SizeType = click.ParamType[tuple[int, ...]]
else:
    _SizeType = click.ParamType  # older versions of click cannot subscript it


class Size(_SizeType):
    """``HxW`` in pixels; one number for a signal, three for a volume."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if not 1 <= len(parts) <= 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a size such as 384x512", param, ctx)
        return tuple(int(part) for part in parts)


class Tolerance(click.FloatRange):
    """A finite number from 0 on; a range alone takes NaN, with which nothing compares, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


_EPILOG = (
    "Exit codes: 0 done; 1 cannot read or write; 2 wrong usage; 3 nothing could be rewritten, reasons given; "
    "4 the proof failed, nothing written."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="onnxfc")
def main() -> None:
    """Rewrite exported ONNX image classifiers so that they run on any image size, with proof."""


@main.command(epilog=_EPILOG)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
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
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print all nodes, outputs and notes.")
def rewrite(source: Path, target: Path, report: Path | None, quiet: bool, verbose: bool, **options: Any) -> None:
    """Rewrite the model IN so that it runs on any image size, prove it, and write it to OUT.

    The fully-connected head becomes Conv nodes with the same weights. OUT is written only when onnxruntime
    shows that it computes the same.
    """
    from onnxfc import report as reports

    _check_report(report, source, target)
    try:
        result = _rewritten(source, target, options, quiet)
    except OnnxfcError as error:
        if report is not None:
            _write_report(report, reports.error_as_json(error))
        _fail(error, verbose)
    if report is not None:
        _write_report(report, reports.as_json(result) | {"input": str(source), "output": str(target)})
    if not quiet:
        click.echo(_encodable(reports.text(result, verbose)))


def _rewritten(source: Path, target: Path, options: dict[str, Any], quiet: bool) -> Rewrite:
    from onnxfc.model_file import ModelFile, SaveOptions
    from onnxfc.proof import CheckOptions
    from onnxfc.rewrite import RewriteOptions
    from onnxfc.rewrite import rewrite as run

    names = ("save_as_external_data", "all_tensors_to_one_file", "external_data_location")
    save = SaveOptions(
        **{name: options[name] for name in names},
        external_data_size_threshold=options["external_data_size_threshold"],
    )
    model = ModelFile.open(source)
    model.check_target(target)
    wanted = RewriteOptions(
        options["output"], options["global_pool"], options["dynamic_batch"], options["size"], options["inputs"]
    )
    checks = CheckOptions(
        rtol=options["rtol"],
        atol=options["atol"],
        seed=options["seed"],
        samples=options["samples"],
        sizes=options["check_size"],
        data=_data(options["data"]),
    )
    progress, clear = _progress(quiet)
    try:
        result = run(model, options=wanted, check_options=checks, prove=not options["no_check"], progress=progress)
        progress(f"writing {target}")
        result.save(target, save)
    finally:
        clear()
    return result


def _data(given: tuple[str, ...]) -> Any:
    """One array, or arrays by input name; None where no data was given."""
    import numpy as np

    arrays = {}
    for item in given:
        name, _, path = item.rpartition("=")
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except OSError as error:
            raise ReadError(f"{path}: cannot read: {error.strerror or _first_line(error)}; check --data") from error
        except (ValueError, EOFError) as error:
            raise ReadError(f"{path}: is not a .npy array of numbers; write one with numpy.save") from error
        if not isinstance(arrays[name], np.ndarray):
            raise ReadError(f"{path}: is an archive of arrays; give one .npy file per input (NAME=FILE.npy)")
    if "" in arrays and len(given) > 1:
        raise UsageError("--data: with several files each one needs its input's name (NAME=FILE.npy)")
    return arrays.get("", arrays) if arrays else None


def _progress(quiet: bool) -> tuple[Callable[[str], None], Callable[[], None]]:
    """A line on the terminal that is overwritten; silence in a pipe."""
    if quiet or not sys.stderr.isatty():
        return (lambda _: None), (lambda: None)

    def show(phrase: str) -> None:
        click.echo(f"\r\033[K{phrase} ...", nl=False, err=True)

    return show, lambda: click.echo("\r\033[K", nl=False, err=True)


def _check_report(report: Path | None, source: Path, target: Path) -> None:
    """Fail before the work, not after it; a report never replaces a model."""
    if report is None:
        return
    if os.path.realpath(report) in {os.path.realpath(source), os.path.realpath(target)}:
        _fail(UsageError(f"--report {report}: is one of the models; give the report a file of its own"), verbose=False)
    if not report.parent.is_dir():
        _fail(WriteError(f"--report {report}: the folder does not exist; create it first"), verbose=False)
    if report.is_file() and not _is_report(report):
        _fail(UsageError(f"--report {report}: exists and is not a report; choose another name"), verbose=False)


def _is_report(path: Path) -> bool:
    """Whether a file may be replaced by a report: an older one, or empty. It could be a model's weights."""
    from onnxfc.report import SCHEMA

    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return not head or SCHEMA.rpartition("/")[0].encode() in head


def _encodable(text: str) -> str:
    """The text as the terminal can show it: not all know arrows."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("⇒", "=>").replace("→", "->").encode(encoding, "backslashreplace").decode(encoding)
    return text


def _write_report(path: Path, document: dict[str, Any]) -> None:
    from onnxfc.report import write

    try:
        write(path, document)
    except WriteError as error:
        _fail(error, verbose=False)


def _fail(error: OnnxfcError, verbose: bool) -> NoReturn:
    """One clear line on stderr, and the exit code."""
    from onnxfc import report as reports

    click.echo(f"onnxfc: {_first_line(error)}{_hint(error)}", err=True)
    if verbose and isinstance(error, NothingToRewrite) and len(error.refusals) > 1:
        click.echo(reports.refusals(error), err=True)
    raise SystemExit(int(error.exit_code))


def _hint(error: OnnxfcError) -> str:
    if isinstance(error, ProofFailed):
        return "; nothing was written"
    if isinstance(error, NothingToRewrite) and len(error.refusals) > 1:
        return f" and {len(error.refusals) - 1} more (-v shows all)"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


__all__ = ["ExitCode", "main"]
