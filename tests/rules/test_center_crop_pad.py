"""CenterCropPad to the size of another map: it is the original itself, at every size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import Net, complete, own_crops, proven, refusal, session

SIZES = ((24, 24), (40, 30), (24, 51), (31, 27))


def beside(said: str, larger: bool) -> onnx.ModelProto:
    """A map of 24 x 24 that is cut to 22 x 22, or the other way round; ``said``: computed, or baked on two axes."""
    net = Net(18)
    image = net.image(1, (24, 24))
    maps = [net.op("Tanh", net.conv(image, 2, 3, strides=[1, 1], **told)) for told in ({"pads": [1] * 4}, {})]
    own, other = maps[::-1] if larger else maps
    length = 24 if larger else 22
    if said == "computed":
        centre = net.op("CenterCropPad", own, net.op("Shape", other))
    else:
        centre = net.op("CenterCropPad", own, net.ints(length, length), axes=[2, -1])
    return net.model(net.op("Add", other, centre))


@pytest.mark.parametrize("larger", [False, True], ids=["cut", "padded"])
@pytest.mark.parametrize("said", ["computed", "baked"])
def test_it_has_the_size_of_the_map_that_it_meets(said: str, larger: bool) -> None:
    done = proven(beside(said, larger), exact=False)
    causes = {str(item).partition(":")[0] for item in done.claim.blame}
    assert causes == {"padding", "padding to a map's size" if larger else "crop to a map's size"}
    free = beside("computed", larger)
    for axis in (2, 3):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
    del free.graph.output[0].type.tensor_type.shape.dim[:]
    new, old = session(complete(done)), session(free)
    for height, width in SIZES:
        image = np.random.default_rng(height).standard_normal((1, 2, height, width)).astype(np.float32)
        np.testing.assert_array_equal(new.run(None, {"image": image})[0], old.run(None, {"image": image})[0])


@pytest.mark.parametrize("said", ["computed", "baked"])
def test_a_head_behind_it_has_the_cells_of_crops(said: str) -> None:
    net = Net(18)
    image = net.image(1, (17, 17))
    wide = net.op("Tanh", net.conv(image, 2, 3, strides=[1, 1]))
    small = net.op("Tanh", net.conv(wide, 3, 3, (4, 4), strides=[1, 1]))
    size = net.op("Shape", small) if said == "computed" else net.ints(1, 3, 12, 12)
    both = net.op("Add", small, net.op("CenterCropPad", wide, size))
    model = net.model(net.fc(net.op("Flatten", both), 3 * 12 * 12, 4))
    done = proven(model)
    assert own_crops(model, done) < 1e-5


def test_a_part_of_the_image_lies_elsewhere_in_each() -> None:
    """Its middle half; a score of it is one of the whole image."""

    def made(pooled: bool) -> onnx.ModelProto:
        net = Net(18)
        trunk = net.op("Tanh", net.conv(net.image(1, (17, 17)), 2, 3))
        half = net.op("Div", net.op("Shape", trunk, start=2), net.ints(2))
        centre = net.conv(net.op("CenterCropPad", trunk, half, axes=[2, 3]), 3, 4, (1, 1), strides=[1, 1])
        return net.model(net.op("GlobalAveragePool", centre) if pooled else centre)

    found = refusal(made(False))
    assert (found.code, found.reason) == (
        "size-locked",
        "CenterCropPad crops or pads whatever it is given to a size that does not grow as its map does",
    )
    model = made(True)
    done = proven(model, exact=False, global_pool="keep")
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for axis in (2, 3):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
    new, old = session(complete(done)), session(free)
    for height, width in ((17, 17), (25, 33), (30, 19)):
        image = np.random.default_rng(height).standard_normal((1, 2, height, width)).astype(np.float32)
        [got], [want] = (item.run(None, {"image": image}) for item in (new, old))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
