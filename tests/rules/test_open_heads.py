"""Heads that compute sizes from an image of any size, and those that read places in parts: each cell is what the
original says of its crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import complete, own_crops, proven, refusal, session
from onnx import numpy_helper

from onnxfc.builder.state import GlobalPool

EXPORTERS = ("torchscript", "dynamo")
GRIDS = ((2, 1), (1, 3), (4, 2))
"""How many cells there are beyond the first, at three sizes."""


def model_of(name: str, exporter: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.{exporter}.onnx"))


def alike(made: ort.InferenceSession, reference: ort.InferenceSession, sizes: Sequence[tuple[int, int]]) -> None:
    """Both give the same for images of these sizes."""
    for height, width in sizes:
        image = np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)
        for found, wanted in zip(*(item.run(None, {"image": image}) for item in (made, reference)), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["open_gaussian", "open_heads", "open_moments", "open_thirds"])
def test_sizes_in_a_head_are_those_of_the_window(name: str, exporter: str) -> None:
    """The image's would be others: its height and width are computed in the file."""
    model = model_of(name, exporter)
    done = proven(model, size=(13, 17))
    assert done.claim.stride == (2, 2)
    assert max(own_crops(model, done, more) for more in GRIDS) < 2e-6


def test_a_kernel_as_large_as_the_map_is_the_window_s_own() -> None:
    model = model_of("open_kernel", "dynamo")
    done = proven(model, size=(13, 17))
    assert max(own_crops(model, done, more) for more in GRIDS) < 2e-6


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_sizes_ahead_of_where_a_kept_pool_begins(exporter: str) -> None:
    """The proof does not take them for the native ones where the original is not asked, off the grid of its strides."""
    model = model_of("open_bordered", exporter)
    made = session(complete(proven(model, exact=False, size=(13, 17), global_pool="keep")))
    alike(made, session(model), ((13, 17), (18, 30), (40, 33)))


def test_a_window_is_resized_from_its_own_length() -> None:
    model = model_of("open_resampled", "dynamo")
    done = proven(model, size=(27,))
    assert max(own_crops(model, done, (more,)) for more in (2, 5, 9)) < 2e-6


@pytest.mark.parametrize("option", ["window", "keep"])
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("opened", ["", "_open"])
def test_a_norm_of_its_own_beside_its_count(opened: str, exporter: str, option: GlobalPool) -> None:
    """The trunk is the open network's at every size: neither count nor norm is left at its native scale alone."""
    network = model_of("own_norms_open", exporter)
    reference, given = session(network), {item.name: numpy_helper.to_array(item) for item in network.graph.initializer}
    model, size = model_of(f"own_norms{opened}", exporter), (13, 17) if opened else None
    made = session(complete(proven(model, exact=False, size=size, global_pool=option)))
    for height, width in ((17, 25), (13, 41), (40, 33)):
        image = np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)
        [mapped], [found] = reference.run(["map"], {"image": image}), made.run(["scores"], {"image": image})
        extent = (4, 6) if option == "window" else mapped.shape[2:]
        means = np.lib.stride_tricks.sliding_window_view(mapped, extent, (2, 3)).mean((-2, -1))
        wanted = np.einsum("nchw,kc->nkhw", means, given["fc.weight"]) + given["fc.bias"][:, None, None]
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("opened", ["", "_open"])
def test_neighbours_in_a_row_are_read_in_pairs(opened: str, exporter: str) -> None:
    """Of every second column alone, as pairs lie in the whole image: cells are four pixels apart there."""
    model = model_of(f"paired{opened}", exporter)
    done = proven(model, size=(13, 17) if opened else None)
    assert done.claim.stride == (2, 4)
    assert max(own_crops(model, done, more) for more in ((2, 1), (4, 2), (6, 3))) < 2e-6


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_pairs_have_no_scores_of_places(exporter: str) -> None:
    assert refusal(model_of("paired", exporter), global_pool="drop").code == "drop-not-affine"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("free", "stride"), [((), (2, 2)), (("height",), (6,))])
def test_halves_of_the_places_of_a_channel(free: tuple[str, ...], stride: tuple[int, ...], exporter: str) -> None:
    """Each half is three rows; of a free height the cells are as far apart."""
    model = model_of("halved", exporter)
    done = proven(model, free=free)
    assert done.claim.stride == stride
    assert max(own_crops(model, done, more[: len(stride)]) for more in GRIDS) < 2e-6


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_covariance_by_a_computed_count_is_kept_of_the_whole_image(exporter: str) -> None:
    """It was refused for a plain number, which is none."""
    model = model_of("open_moments", exporter)
    made = session(complete(proven(model, exact=False, size=(13, 17), global_pool="keep")))
    alike(made, session(model), ((13, 17), (19, 31), (40, 33)))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_counts_of_fewer_or_more_than_the_places_of_a_map(exporter: str) -> None:
    """They are numbers in a file of one size, and make means of sums: the proof did not tell that and failed."""
    made = session(complete(proven(model_of("own_counts", exporter), exact=False, global_pool="keep")))
    alike(made, session(model_of("own_counts_open", exporter)), ((13, 17), (19, 31), (40, 33)))


@pytest.mark.parametrize("free", [(), ("width",)])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_inputs_that_make_no_number_leave_the_proof_to_others(exporter: str, free: tuple[str, ...]) -> None:
    """At some sizes pixels up to 255 leave nothing of a channel, of which the skewness is none."""
    done = proven(model_of("skewness", exporter), exact=False, global_pool="keep", free=free)
    made, reference = session(complete(done)), session(model_of("skewness_open", exporter))
    for height, width in ((13, 19), (13, 20), (13 if free else 19, 31)):
        image = np.random.default_rng(width).standard_normal((1, 3, height, width)).astype(np.float32)
        found, wanted = (item.run(None, {"image": image})[0] for item in (made, reference))
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.ptp(wanted))
