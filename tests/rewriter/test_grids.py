"""Grids of coordinates that were folded into constants: at every size what PyTorch's own networks give."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from fixture_files import fixture_file

import onnxfc
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite

EXPORTERS = ("torchscript", "dynamo")
LISTS = ("grid_decoder", "grid_distances", "grid_added", "grid_centres", "grid_positions")
MAPS = ("grid_coordinates", "grid_halves", "grid_weighed", "grid_turned", "grid_position_map")
SIZES = ((64, 48), (36, 52), (33, 51))
REFERENCES = np.load(fixture_file("grids.npz"))


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    given = onnxfc.RewriteOptions(**options)  # type: ignore[arg-type]
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=given)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)


def agrees(done: Rewrite, name: str, rounding: float = 4e-6) -> None:
    session = ort.InferenceSession(done.model.SerializeToString())
    for size in SIZES:
        [value] = session.run(None, {"image": image(*size)})
        want = REFERENCES[f"{name} {done.claim.outputs[0].name} {size[0]}x{size[1]}"]
        assert value.shape == want.shape
        np.testing.assert_allclose(value, want, rtol=0, atol=rounding * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", [*LISTS, *MAPS])
def test_grids_of_any_size(name: str, exporter: str) -> None:
    done = rewritten(name, exporter)
    assert done.parity is not None
    assert done.parity.passed
    agrees(done, name, rounding=2e-5 if name == "grid_turned" else 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_parts_of_the_image_are_asked_for(exporter: str) -> None:
    """Centres of priors are (i + 1/2) * stride / image: what is behind may multiply them by the native size."""
    with pytest.raises(NothingToRewrite, match="show no rule by which it goes on") as caught:
        rewritten("grid_priors", exporter)
    assert [(item.code, "--grids step" in item.advice) for item in caught.value.refusals] == [("grid-rule", True)]
    with pytest.raises(NothingToRewrite, match="of what is it a part"):
        rewritten("grid_priors", exporter, grids="map")
    agrees(rewritten("grid_priors", exporter, grids="image"), "grid_priors")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_steps_that_stay_are_boxes_in_native_images(exporter: str) -> None:
    """Each box in parts of the native image: what a network gives whose priors are always made for that."""
    done = rewritten("grid_priors", exporter, grids="step")
    assert done.claim.verdict == "extrapolated"
    agrees(done, "native grid_priors")


@pytest.mark.parametrize("name", ["coordinates", "boxes"])
def test_grids_of_keras(name: str) -> None:
    """Channels last."""
    done = onnxfc.rewrite(fixture_file(f"keras_{name}.torch.onnx"))
    wanted = np.load(fixture_file("keras_grids.npz"))
    session = ort.InferenceSession(done.model.SerializeToString())
    for size in SIZES:
        given = np.random.default_rng(size[0]).standard_normal((1, *size, 3)).astype(np.float32)
        [value] = session.run(None, {session.get_inputs()[0].name: given})
        want = wanted[f"{name} {size[0]}x{size[1]}"]
        assert value.shape == want.shape
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_mean_place_of_the_whole_image(exporter: str) -> None:
    """Kept, it counts all places; without, each window its own."""
    done = rewritten("grid_argmax", exporter, global_pool="keep")
    assert {grid.rules for grid in done.claim.grids} == {("", "step"), ("step", "")}
    agrees(done, "grid_argmax")
    assert rewritten("grid_argmax", exporter).claim.grids == ()
