"""A tile that has its halo gives the cells of the whole image, for trunks that resample and crop in every way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, refusal
from hypothesis import assume, event, given, seed
from hypothesis import strategies as st
from random_chains import Chain, random_chain, tiled
from random_networks import SEED, drawn

from onnxfc.errors import NothingToRewrite, UsageError
from onnxfc.rewriter.api import Rewrite, rewrite

HALF = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
PYTORCH = {**HALF, "coordinate_transformation_mode": "pytorch_half_pixel"}


def agree(done: Rewrite, number: int = 0) -> None:
    found = list(tiled(done, np.random.default_rng(number), sizes=8))
    assert found
    for told, deviation in found:
        assert deviation < 1e-3, (told, done.geometry.halo)


def proven(model: onnx.ModelProto | None) -> Rewrite:
    """Rewritten, with its proof."""
    assert model is not None
    return rewrite(model, check_options=CHECK)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_quarter_with_something_left_over(exporter: str) -> None:
    """17 x 18 places become 4 x 4: a fifth begins where 20 are, and until then there is padding in its place."""
    done = rewrite(fixture_file(f"quartered.{exporter}.onnx"), check_options=CHECK)
    assert done.geometry.stride == (8, 8)
    assert done.geometry.field_start[0] + done.geometry.field_size[0] >= 2 * (4 + 3 + 1)  # the next element's last
    agree(done)


@pytest.mark.sweep(16)
@pytest.mark.parametrize(("ratio", "step"), [(1 / 4, 1), (1 / 8, 1), (1 / 6, 1), (2 / 5, 2), (3 / 8, 3)])
@pytest.mark.parametrize("how", [HALF, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}])
@pytest.mark.parametrize("head", ["fc", "GlobalAveragePool", "features"])
def test_a_padding_behind_a_part_of_the_size(ratio: float, step: int, how: dict[str, str], head: str) -> None:
    chain = Chain(1)
    fewer = chain.resize(chain.slide(chain.begun((47, 45)), 1, 1), (ratio, ratio), **how)
    agree(proven(chain.ended(chain.slide(fewer, 3, step, (1, 1, 1, 1)), head)))


def test_one_place_with_half_pixels_of_pytorch() -> None:
    """ONNX puts the centre of one place on the first pixel, of several a pixel and a half behind it."""
    chain = Chain(2)
    made = proven(chain.ended(chain.resize(chain.slide(chain.begun((13, 14)), 1, 2), (1 / 4, 1 / 4), **PYTORCH), "fc"))
    assert made.geometry.halo is None  # where it lies depends on the whole image
    assert any(item.startswith("context: ") for item in made.claim.blame)
    chain = Chain(2)
    image = chain.begun((17, 18))
    made = proven(chain.ended(chain.resize(chain.slide(image, 1, 2), (1 / 4, 1 / 4), **PYTORCH), "features"))
    assert made.geometry.smallest_size == (15, 15)  # eight places, of which two are made
    agree(made)


def test_a_map_that_is_copied_whatever_its_scales() -> None:
    """Three places by 1.25 are three, which onnxruntime copies; of eleven it picks, also among the first three."""
    chain = Chain(3)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"}
    made = proven(
        chain.ended(chain.resize(chain.slide(chain.begun((3, 3)), 1, 1), (5 / 4, 5 / 4), **nearest), "features")
    )
    assert made.geometry.halo is None


@pytest.mark.sweep(16)
@pytest.mark.parametrize("by", [2, 3, 4])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("head", ["fc", "GlobalAveragePool", "features"])
def test_a_crop_to_a_multiple(by: int, before: bool, head: str) -> None:
    """What is cut off behind the map counts as read; where it is cut off before, other sizes move the grid."""
    chain = Chain(4)
    cropped = chain.crop(chain.begun((25, 24)), by, before)
    done = proven(chain.ended(chain.slide(chain.slide(cropped, 3, 2, (1, 1, 1, 1)), 3, 2), head))
    if before and head == "features":
        assert done.geometry.size_step == done.geometry.period == (12 if by == 3 else 4,) * 2
        with pytest.raises(UsageError, match="plus multiples of"):
            done.geometry.cells(26, 24)
    agree(done)


def test_a_part_of_the_size_whose_share_of_the_probes_is_no_whole_number() -> None:
    """A third of the map, rounded down: between the steps of three the ratio is another."""
    chain = Chain(5)
    third = chain.resize_to_part(chain.slide(chain.begun((45, 45)), 2, 3, (0, 1, 1, 0)), 3, **HALF)
    done = proven(chain.ended(chain.slide(third, 2, 1, (0, 1, 0, 0)), "fc"))
    assert any(item.startswith("resampling to a map's size: ") for item in done.claim.blame)
    agree(done)


def test_a_kernel_longer_than_its_map() -> None:
    """Along the width onnxruntime makes one element of 1 + 1 places and a kernel of 3 that moves on by 2."""
    chain = Chain(7)
    part = chain.resize(chain.begun((40, 5)), (1 / 4, 1 / 4), **HALF)
    made = str(chain.op("AveragePool", part, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1]))
    model = chain.ended(made, "features")
    assert model is not None
    found = refusal(model)
    assert (found.code, found.node) == ("size-locked", f"node_{made}")
    assert "longer than the padded map" in found.reason


@seed(SEED)
@drawn(100)
@given(st.integers(0, 2**31 - 1))
def test_random_chains(number: int) -> None:
    model = random_chain(number)
    assume(model is not None)
    assert model is not None
    try:
        done = rewrite(model, prove=False)
    except NothingToRewrite as error:
        event(f"refused: {error.refusals[0].code}")
        return
    event(done.claim.verdict)
    if done.geometry.halo is not None and not done.geometry.whole_image:
        agree(done, number)
