"""Common things that networks write in ways of their own: what PyTorch's own networks give at other sizes."""

from __future__ import annotations

import numpy as np
import pytest
from fixture_files import fixture_file
from hazards import CHECK
from references import EXPORTERS, compare, image

import onnxfc
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("spellings.npz"))
SIZES = ((17, 33), (25, 25), (33, 41))


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    """Rewritten, and proven."""
    chosen = RewriteOptions(**options)  # type: ignore[arg-type]
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=chosen, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    return done


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_sums_divided_by_the_height_and_then_by_the_width(exporter: str) -> None:
    """And a deviation over N - 1 of the columns: both are kept, and proven, as the original's head reckons."""
    done = rewritten("sides_by_hand", exporter, global_pool="keep")
    for size in SIZES:
        compare(done.model, {"image": image(*size)}, REFERENCES, "sides_by_hand", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("axis", "sizes"), [("width", ((17, 33),)), ("height", ((25, 25),))])
def test_an_einsum_that_only_sums_where_an_axis_stays(
    axis: str, sizes: tuple[tuple[int, int], ...], exporter: str
) -> None:
    """It is the sum that ReduceSum writes, over what stays and what follows the image."""
    done = rewritten("sides_summed", exporter, free=(axis,), global_pool="keep")
    assert done.claim.inputs[0].spatial == ((3,) if axis == "width" else (2,))
    for size in sizes:
        compare(done.model, {"image": image(*size)}, REFERENCES, "sides_summed", 1e-5)
    rewritten("sides_summed", exporter, free=(axis,))
