"""The rules, one module per operator family. Importing this package fills the table.

To add an operator: find its family, write one function under ``@rule(...)``, name every attribute of its schema.
"""

from onnxfc.rules import (
    along_axis,
    broadcast,
    concat_split,
    contraction,
    convolution,
    einsum,
    elementwise,
    expand,
    fallback,
    gather,
    matmul,
    movement,
    normalization,
    padding,
    pooling,
    reduction,
    resampling,
    reshape,
    shape_ops,
    slice,
    softmax,
    transpose,
)

__all__ = [
    "along_axis",
    "broadcast",
    "concat_split",
    "contraction",
    "convolution",
    "einsum",
    "elementwise",
    "expand",
    "fallback",
    "gather",
    "matmul",
    "movement",
    "normalization",
    "padding",
    "pooling",
    "reduction",
    "resampling",
    "reshape",
    "shape_ops",
    "slice",
    "softmax",
    "transpose",
]
