"""The command line: its commands are the modules beside this one."""

from __future__ import annotations

import gc
import os

import click

from onnxfc.cli.check import check
from onnxfc.cli.common import EPILOG
from onnxfc.cli.demo import demo
from onnxfc.cli.inspect import inspect
from onnxfc.cli.main_group import MainGroup
from onnxfc.cli.rewrite import rewrite
from onnxfc.cli.scan import scan
from onnxfc.version import __version__


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, "-V", "--version", prog_name="onnxfc")
def main() -> None:
    """Rewrite exported ONNX image classifiers so that they run on any image size, with proof.

    \b
    onnxfc rewrite model.onnx model-any.onnx
    onnxfc scan model-any.onnx image.png map.png

    `onnxfc demo DIR` writes a model and an image to begin with, `onnxfc COMMAND --help` says more.
    """
    # numpy's linear algebra is not used for what is large; to start its threads takes longer than to read a VGG-16.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What imports and a walk make is needed to the end, and little is cyclic: seldom is there garbage to look for.
    gc.set_threshold(200_000, 20, 20)


for _command in (rewrite, check, inspect, scan, demo):
    main.add_command(_command)
