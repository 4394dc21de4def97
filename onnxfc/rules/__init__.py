"""The rules, one module per operator family. Importing this package fills the table.

To add an operator: find its family, write one function under ``@rule(...)``, name every attribute of its schema.
"""

from onnxfc.rules import (
    arithmetic,
    channels,
    einsum,
    elementwise,
    fc,
    fold_parts,
    folded,
    fused,
    indexing,
    layout,
    movement,
    normalize,
    per_window,
    pooling,
    products,
    resample,
    sizes,
    slices,
    strip_layout,
    strips,
    trunk,
)
from onnxfc.rules.table import RULES, Rule, leading, rule

__all__ = [
    "RULES",
    "Rule",
    "arithmetic",
    "channels",
    "einsum",
    "elementwise",
    "fc",
    "fold_parts",
    "folded",
    "fused",
    "indexing",
    "layout",
    "leading",
    "movement",
    "normalize",
    "per_window",
    "pooling",
    "products",
    "resample",
    "rule",
    "sizes",
    "slices",
    "strip_layout",
    "strips",
    "trunk",
]
