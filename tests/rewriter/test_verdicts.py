"""What no cell reads makes no cell another than its crop: padding behind the last window, the end of a cropped map.

Nor does a map of another resolution of which no place reads beyond the map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, own_crops, proven, session

from onnxfc import rewrite

EXPORTERS = ("torchscript", "dynamo")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "verdict"), [("unread", "exact"), ("read", "approximate")])
def test_padding_that_is_read_or_not(name: str, verdict: str, exporter: str) -> None:
    original = onnx.load(fixture_file(f"borders_{name}.{exporter}.onnx"))
    done = rewrite(original, check_options=CHECK)
    assert done.claim.verdict == verdict
    assert done.parity is not None
    assert (done.parity.crops.deviation < 1e-6) == (verdict == "exact")
    image = np.random.default_rng(2).standard_normal((1, 3, 22, 27)).astype(np.float32)
    maps, run = session(complete(done)).run(None, {"image": image}), session(original)
    worst = 0.0
    for row, column in np.ndindex(maps[0].shape[2:]):
        first, left = row * done.claim.stride[0], column * done.claim.stride[1]
        crop = np.ascontiguousarray(image[:, :, first : first + 13, left : left + 13])
        for made, wanted in zip(maps, run.run(None, {"image": crop}), strict=True):
            worst = max(worst, float(np.abs(made[:, :, row, column] - wanted).max() / np.ptp(wanted)))
    assert (worst < 1e-5) == (verdict == "exact")


Step = Callable[[Net, str], Any]


def resized(
    scale: float, mode: str = "nearest", how: str = "half_pixel", nearest: str = "round_prefer_floor", **more: int
) -> Step:
    told = {"mode": mode, "coordinate_transformation_mode": how, "nearest_mode": nearest, **more}
    return lambda net, tensor: net.op("Resize", tensor, "", net.const([1, 1, scale, scale]), **told)


def transposed(kernel: int, stride: int, **more: Any) -> Step:
    return lambda net, tensor: net.op(
        "ConvTranspose", tensor, net.random(4, 4, kernel, kernel), strides=[stride, stride], **more
    )


def shuffled(net: Net, tensor: str) -> str:
    return net.conv(net.op("DepthToSpace", tensor, blocksize=2), 1, 4, (1, 1), strides=[1, 1])


INSIDE: dict[str, tuple[int, list[Step]]] = {
    "doubled": (2, [resized(2, how="asymmetric", nearest="floor")]),
    "doubled from centre to centre": (2, [resized(2)]),
    "tripled, as PyTorch does": (3, [resized(3, how="pytorch_half_pixel")]),
    "half as large again": (3, [resized(1.5, how="asymmetric", nearest="floor")]),
    "halved": (1, [resized(0.5, "linear")]),
    "halved, as PyTorch does": (1, [resized(0.5, "linear", "pytorch_half_pixel")]),
    "a quarter": (1, [resized(0.25, how="asymmetric", nearest="ceil")]),
    "blocks": (2, [transposed(2, 2)]),
    "blocks with gaps": (3, [transposed(2, 3)]),
    "overlaps cut off": (2, [transposed(3, 2, pads=[1, 1, 1, 1])]),
    "pixels shuffled": (2, [shuffled]),
    "halved and doubled twice": (4, [resized(0.5, "linear"), resized(4)]),
}
BEYOND: dict[str, tuple[int, list[Step]]] = {
    "doubled linearly": (2, [resized(2, "linear")]),
    "the last place drawn out": (2, [resized(2, "linear", "asymmetric")]),
    "the first place drawn out": (2, [resized(2, nearest="floor")]),
    "rounded up": (2, [resized(2, how="asymmetric", nearest="ceil")]),
    "a cubic half": (1, [resized(0.5, "cubic")]),
    "overlaps": (2, [transposed(3, 2)]),
    "overlaps at the start": (2, [transposed(3, 2, pads=[0, 0, 1, 1])]),
    "overlaps at the end": (2, [transposed(3, 2, pads=[1, 1, 0, 0])]),
    "a smooth half": (1, [resized(0.5, "linear", antialias=1)]),
    "filled up at the end": (2, [transposed(3, 2, pads=[1, 1, 1, 1], output_padding=[1, 1])]),
    "half a period apart": (1, [resized(0.5), resized(2)]),
}


def with_steps(stride: int, steps: list[Step], opset: int = 18) -> onnx.ModelProto:
    """A map of 12x12, the steps, and a Conv ahead of the head."""
    net = Net(opset)
    tensor = net.op("Tanh", net.conv(net.image(1, (12, 12)), 2, 4, (1, 1), strides=[1, 1]))
    for step in steps:
        tensor = step(net, tensor)
    tensor = net.op("Tanh", net.conv(tensor, 4, 3, (2, 2), strides=[stride, stride]))
    shape = session(net.model(tensor)).run(None, {"image": np.zeros((1, 2, 12, 12), np.float32)})[0].shape
    return net.model(net.fc(net.op("Flatten", tensor), int(np.prod(shape)), 5))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("name", INSIDE)
def test_a_resampling_that_reads_no_place_beyond_its_map_is_exact(name: str, beyond: int) -> None:
    original = with_steps(*INSIDE[name])
    done = proven(original, exact=True)
    assert own_crops(original, done, beyond=beyond) < 1e-5


@pytest.mark.parametrize("name", BEYOND)
def test_a_resampling_that_reads_beyond_its_map_is_not(name: str) -> None:
    """Nor one whose cells are less than its period apart; cells are off their crops by 3 % of the scores or more."""
    original = with_steps(*BEYOND[name])
    done = proven(original, exact=False, crops=False)
    assert {item.partition(":")[0] for item in done.claim.blame} == {"resampling"}
    assert own_crops(original, done, more=(2, 2)) > 0.03


def test_operators_before_set_11_read_from_corner_to_corner() -> None:
    """https://onnx.ai/onnx/operators/onnx__Upsample.html"""

    def doubled(net: Net, tensor: str) -> Any:
        return net.op("Upsample", tensor, net.const([1, 1, 2, 2]), mode="nearest")

    original = with_steps(2, [doubled], opset=9)
    assert own_crops(original, proven(original)) < 1e-5


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_scales_that_float32_rounds_are_not_exact(mode: str) -> None:
    """Far into an image the places that are read move."""
    done = proven(with_steps(1, [resized(1 / 3, mode)]), exact=False, crops=False)
    assert {item.partition(":")[0] for item in done.claim.blame} == {"resampling"}


def test_a_model_without_a_head_has_no_cells_to_be_periods_apart() -> None:
    net = Net()
    tensor = net.conv(resized(0.5)(net, net.image(1, (12, 12))), 2, 3, (1, 1), strides=[1, 1])
    done = rewrite(net.model(tensor), check_options=CHECK)
    assert {item.partition(":")[0] for item in done.claim.blame} == {"resampling"}
