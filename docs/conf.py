"""The site of these pages: ``sphinx-build -W docs site``, with the extra ``docs``."""

from onnxfc.version import __version__

project = "onnxfc"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["pictures.py"]
html_theme = "furo"
html_title = "onnxfc"
myst_heading_anchors = 4
