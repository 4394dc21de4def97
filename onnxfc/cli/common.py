"""What the commands share: options, progress, reports, errors as one line and an exit code.

onnx and onnxruntime are imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import click

from onnxfc.cli.main_group import complain, show
from onnxfc.cli.values import InputShape, ReportPath, Shape
from onnxfc.errors import NothingToRewrite, OnnxfcError, ProofFailed, ReadError, UsageError, WriteError

STDOUT = Path("-")
NODES = ".nodes.json"
PROVIDER = (
    "The execution provider of onnxruntime to run on, a built-in one or one of an installed plugin. What it leaves to "
    "the CPU is an error, unless fallback=allow; hardware=cpu, gpu or npu picks a device."
)
PROVING = ("seed", "samples", "check_sizes", "threads", "provider", "timeout", "memory")
"""Options of a proof that are given on as they are."""
THREADS = "Threads of onnxruntime for one operator; 0: its own choice."
PROFILE = (
    "Tell what fits an accelerator: amd-dpucahx8h, amd-dpuczdx8g, arm-ethos-u, axelera, kneron-kl520, kneron-kl720, "
    "qualcomm-htp, ti-tidl, or a JSON file of limits."
)
TIMEOUT = "Let the proof take so long at most; it runs in a process of its own, whose end, or crash, fails it."
MEMORY = (
    "Let the proof take so much memory at most, besides the files that it maps: a number of MB, or 2G, say. It runs "
    "in a process of its own too."
)


def by_name(shapes: Sequence[Shape]) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs; each once."""
    found = dict(shapes)
    if len(found) < len(shapes):
        raise UsageError("--input-shape: an input is given twice")
    return found


INPUT_SHAPE = click.option(
    "--input-shape",
    "input_shapes",
    type=InputShape(),
    multiple=True,
    help="The same as an input's whole shape, 1,3,224,224 too; for several inputs, repeated.",
)
"""Behind ``--size``."""


_GROUPS = {
    **dict.fromkeys(("size", "input_shapes", "inputs", "at", "boundaries"), "The model"),
    **dict.fromkeys(("out", "out_dir", "output", "global_pool", "dynamic_batch", "free", "output_at"), "The result"),
    **dict.fromkeys(
        ("grids", "grow", "fixed_size", "form", "keep_output_shape", "max_kernel", "max_pool", "profile"), "The result"
    ),
    **dict.fromkeys(("per_window_scale", "dequantize_head"), "The result"),
    **dict.fromkeys(
        ("save_as_external_data", "all_tensors_to_one_file", "external_data_location", "external_data_size_threshold"),
        "Where weights go",
    ),
    **dict.fromkeys(("report", "junit", "as_json", "quiet", "verbose", "help"), "What is told"),
}
"""Which options of a command's help stand together."""


class Grouped(click.Command):
    """A command whose help shows its options in groups: ``groups`` by parameter, ``rest`` for all others.

    No name may be empty, as it is where a variable of a script is: a path would be the working directory, an option as
    good as not given.
    """

    groups: ClassVar[Mapping[str, str]] = _GROUPS
    rest = "The proof"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, order = self.make_parser(ctx).parse_args(list(args))
        for param in order:
            value = given.get(param.name or "")
            words = value if isinstance(value, (list, tuple)) else [value]
            if "" in words and isinstance(param.type, (click.Path, type(click.STRING))):
                raise click.BadParameter("it is empty; give a value, or leave it out", ctx, param)
        return super().parse_args(ctx, args)

    def _group(self, param: click.Parameter) -> str:
        name = "help" if "--help" in param.opts else param.name or ""  # older versions of click call it otherwise
        return self.groups.get(name, self.rest)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, under several titles."""
        titles = ("The model", "The image", "The result", self.rest)
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in titles}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                rows.setdefault(self._group(param), []).append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


REPORT = (
    click.option(
        "--report",
        type=ReportPath(),
        help="Write the report: JSON; a page if FILE ends in .html; of one model, node data for Model Explorer if it "
        "ends in .nodes.json. - prints JSON.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON: --report -."),
)


def added(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A command with these options, in order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def report_path(report: Path | None, as_json: bool) -> Path | None:
    """Where the report goes."""
    if as_json and report is not None:
        raise click.UsageError("--json prints the report, --report FILE writes it; give one of them")
    return STDOUT if as_json else report


EPILOG = (
    "Exit codes: 0 done; 1 cannot read or write; 2 wrong usage; 3 nothing could be rewritten, reasons given; "
    "4 the proof failed, nothing written."
)


def load_data(given: tuple[str, ...]) -> Any:
    """One array, or arrays by input name; None where no data was given."""
    import numpy as np

    arrays = {}
    for item in given:
        name, _, path = item.rpartition("=")
        if name and name in arrays:
            raise UsageError(f"--data: {name} is given twice")
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # a pipe may wait for ever
            raise ReadError(f"{path}: is not a regular file; give the path of a .npy file")
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except OSError as error:
            told = f"{path or item}: cannot read: {error.strerror or first_line(error)}; check --data"
            raise ReadError(told) from error
        except (ValueError, EOFError) as error:
            raise ReadError(f"{path}: is not a .npy array of numbers; write one with numpy.save") from error
        if not isinstance(arrays[name], np.ndarray):
            raise ReadError(f"{path}: is an archive of arrays; give one .npy file per input (NAME=FILE.npy)")
    if "" in arrays and len(given) > 1:
        raise UsageError("--data: with several files each one needs its input's name (NAME=FILE.npy)")
    return arrays.get("", arrays) if arrays else None


def progress_line(quiet: bool) -> tuple[Callable[[str], None], Callable[[], None]]:
    """A line on the terminal that is overwritten; silence in a pipe."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return (lambda _: None), (lambda: None)

    began = time.monotonic()

    def show(phrase: str) -> None:
        with suppress(OSError):
            click.echo(f"\r\033[K{time.monotonic() - began:.0f} s: {phrase} ...", nl=False, err=True)

    def clear() -> None:
        with suppress(OSError):
            click.echo("\r\033[K", nl=False, err=True)

    return show, clear


def is_node_data(report: Path | None) -> bool:
    """Whether a report is to be node data for Model Explorer."""
    return report is not None and report.name.endswith(NODES)


def check_report(report: Path | None, *models: Path, option: str = "--report", nodes: bool = False) -> None:
    """Fail before the work, not after it; a report never replaces a model. ``nodes``: it may be node data."""
    if report is None or report == STDOUT:
        return
    if is_node_data(report) and not nodes:
        fail(
            UsageError(f"{option} {report}: is for one model; `onnxfc inspect MODEL --report` writes it"), verbose=False
        )
    if os.path.realpath(report) in map(os.path.realpath, models):
        fail(UsageError(f"{option} {report}: is one of the models; give the report a file of its own"), verbose=False)
    if not report.parent.is_dir():
        fail(WriteError(f"{option} {report}: the folder does not exist; create it first"), verbose=False)
    if report.is_file() and not _is_report(report):
        fail(UsageError(f"{option} {report}: exists and is not a report; choose another name"), verbose=False)


def _is_report(path: Path) -> bool:
    """Whether a file may be replaced by a report: an older one, or empty. It could be a model's weights."""
    try:
        with path.open("rb") as file:
            head = file.read(80)
    except OSError:
        return False
    from onnxfc.reports import html, nodes

    return not head or any(mark in head for mark in (*_REPORTS, html.MARK.encode(), nodes.MARK.encode()))


_REPORTS = (b'"schema": "onnxfc-', b'<testsuites name="onnxfc')
"""How reports begin that are no pages."""


def encodable(text: str) -> str:
    """The text as the terminal can show it: not all know arrows."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("⇒", "=>").replace("→", "->").encode(encoding, "backslashreplace").decode(encoding)
    return text


def write_report(path: Path, document: dict[str, Any]) -> None:
    """As a page where the name ends so, else as JSON."""
    if path.suffix.lower() in {".html", ".htm"}:
        from onnxfc.reports.html import page

        write_bytes(path, page(document).encode("utf-8", "backslashreplace"))
        return
    from onnxfc.reports.document import as_bytes

    write_bytes(path, as_bytes(document))


def write_bytes(path: Path, content: bytes) -> None:
    """To a file, a pipe, or stdout."""
    from onnxfc.reports import document

    if path == STDOUT:
        show(encodable(content.decode("utf-8").rstrip("\n")))
        return
    try:
        document.write_bytes(path, content)
    except WriteError as error:
        fail(error, verbose=False)


def fail(error: OnnxfcError, verbose: bool, *, source: Path | None = None, writes: bool = True) -> NoReturn:
    """One clear line on stderr, and the exit code."""
    from onnxfc.reports import rewrite as reports

    complain(told(error, source, writes))
    if verbose and isinstance(error, NothingToRewrite) and len(error.refusals) > 1:
        complain(reports.refusals(error))
    raise SystemExit(int(error.exit_code))


def told(error: OnnxfcError, source: Path | None, writes: bool = True, one_of_many: bool = False) -> str:
    """An error as one line; a reason of the model itself begins with its file, ``source``, any reason where that is
    ``one_of_many``. ``writes``: a model, had there been no error."""
    of_model = isinstance(error, (NothingToRewrite, ProofFailed)) or (one_of_many and str(source) not in str(error))
    file = f"{source}: " if source is not None and of_model else ""
    text = str(error).strip()
    said = text if isinstance(error, (NothingToRewrite, ProofFailed)) else _as_options(text)
    return f"onnxfc: {printable(file + said)}{_hint(error, writes=writes)}"


_BEGINNING = re.compile(r"([a-z_]+)(?=(?: [^ :]+)?: )")
_UNDERSCORED = re.compile(r"[a-z]+(?:_[a-z]+)+(?![\w.])")


def _as_options(text: str) -> str:
    """What Python calls ``region`` or ``save_as_external_data`` as the command line does: where a message begins with
    it, or it has an underscore."""
    context = click.get_current_context(silent=True)
    known: dict[str, str] = {}
    for param in context.command.params if context is not None else ():
        if isinstance(param, click.Option):
            long = max(param.opts, key=len)
            known |= {param.name or "": long, long[2:].replace("-", "_"): long, f"{long[2:]}s": long}
    known.pop("size", None)  # any size: that of --at, too
    begun = _BEGINNING.match(text)
    if begun and begun[1] in known:
        text = known[begun[1]] + text[begun.end(1) :]
    return _UNDERSCORED.sub(
        lambda found: known.get(found[0], found[0]) if _alone(text, found.start()) else found[0], text
    )


def _alone(text: str, begin: int) -> bool:
    """Whether no path, tensor or option goes on there."""
    return begin == 0 or text[begin - 1] in " ("


def _hint(error: OnnxfcError, *, writes: bool) -> str:
    if isinstance(error, ProofFailed) and writes:
        return "; nothing was written"
    if isinstance(error, NothingToRewrite) and error.refusals:
        more = f" and {len(error.refusals) - 1} more (-v shows all)" if len(error.refusals) > 1 else ""
        return f"{more}; see docs/refusals.md#{error.refusals[0].code}"
    return ""


def printable(text: str) -> str:
    """The text as one line, whatever the names in it are made of."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
