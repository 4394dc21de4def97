"""Groups of channels, or heads, folded into the batch, and figures of the whole image of each: as PyTorch has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, session

from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("groups.npz"))
BOTH = ("torchscript", "dynamo")
SIZES = ((28, 24), (20, 36), (25, 31))
MAPS = ("enhanced", "shuffled", "multi_scale", "asked")


def rewritten(exporter: str, **options: Any) -> Rewrite:
    return rewrite(fixture_file(f"groups.{exporter}.onnx"), options=RewriteOptions(**options), check_options=CHECK)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    made = session(model)
    return dict(zip([item.name for item in made.get_outputs()], made.run(None, {"image": images}), strict=True))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-2]).standard_normal(shape).astype(np.float32)


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / want.std())


@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("options", [{"output_at": MAPS}, {"global_pool": "keep"}])
def test_modules_are_those_of_pytorch_at_other_sizes(exporter: str, options: dict[str, Any]) -> None:
    done = rewritten(exporter, **options)
    assert done.claim.size_step == (1, 1)
    for height, width in SIZES:
        made = run(complete(done), noise(1, 3, height, width))
        for name, value in made.items():
            want = REFERENCES[f"groups {name} {height}x{width}"]
            assert deviation(value.reshape(want.shape), want) < 2e-5
        assert set(made) == {*MAPS, *([] if "output_at" in options else ["scores"])}


@pytest.mark.parametrize("exporter", BOTH)
def test_images_of_a_batch_stay_alone(exporter: str) -> None:
    """The batch, and with it the groups of each image, were one number in the file."""
    model = complete(rewritten(exporter, output_at=MAPS[:3], dynamic_batch=True))
    images = noise(3, 3, 24, 28)
    single = [run(model, image[None]) for image in images]
    for name, value in run(model, images).items():
        assert deviation(value, np.concatenate([made[name] for made in single])) < 1e-5


@pytest.mark.parametrize("exporter", BOTH)
def test_scores_are_of_windows_by_default(exporter: str) -> None:
    """A head behind such modules pools each window; what they look at is named."""
    done = rewritten(exporter, output_at=("scores",))
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context", "padding"}
    native = noise(1, 3, 20, 24)
    original = onnx.load(fixture_file(f"groups.{exporter}.onnx"))
    assert deviation(run(complete(done), native)["scores"][..., 0, 0], run(original, native)["scores"]) < 1e-5
    assert run(complete(done), noise(1, 3, 28, 24))["scores"].shape == (1, 5, 5, 1)
