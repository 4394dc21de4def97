"""``python -m onnxfc``."""

from onnxfc.cli import main

main(prog_name="onnxfc")
