"""``onnxfc demo``: a model and an image to try the other commands on."""

from __future__ import annotations

from pathlib import Path

import click

from onnxfc.cli.common import Grouped, fail
from onnxfc.cli.main_group import show
from onnxfc.errors import UsageError, WriteError

_FILES = ("digits.onnx", "canvas.npy")


@click.command(
    cls=Grouped, short_help="Write a model and an image to try onnxfc on.", epilog="Example: onnxfc demo try"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def demo(folder: Path) -> None:
    """Write a small model and an image to try onnxfc on into DIR.

    digits.onnx names handwritten digits of 16x16 pixels; canvas.npy, 64x112 pixels, has eight of them.
    """
    from importlib import resources  # with tempfile and more, which no other command needs

    from onnxfc.reports.rewrite import TO_DRAW, argument, draws

    there = [folder / name for name in _FILES if (folder / name).exists()]
    if there:
        fail(UsageError(f"{there[0]}: exists already; give another folder"), verbose=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).write_bytes(resources.files("onnxfc").joinpath("cli", "demo_files", name).read_bytes())
    except OSError as error:
        fail(WriteError(f"{error.filename or folder}: cannot write: {error.strerror}"), verbose=False)
    model, result = folder / "digits.onnx", folder / "digits-any.onnx"
    out = folder / ("map.png" if draws() else "best.csv")
    show(
        f"wrote {model}: names digits of 16x16 px\n"
        f"wrote {folder / 'canvas.npy'}: an image of 64x112 px with eight digits\n"
        f"try   onnxfc rewrite {argument(model)} {argument(result)}\n"
        f"try   onnxfc inspect {argument(result)} --at 64x112\n"
        f"try   onnxfc scan {argument(result)} {argument(folder / 'canvas.npy')} {argument(out)}"
        + ("" if draws() else f"\n{TO_DRAW}")
    )
