"""Why nothing of a network can be rewritten: the node that is named, and the words for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hazards import Net, refusal

from onnxfc.errors import Refusal


def refused(end: Callable[[Net, str], str]) -> Refusal:
    net = Net(17)
    return refusal(net.model(end(net, net.conv(net.image(1, (16, 16), 1), 1, 4, strides=[1, 1]))))


def cut(net: Net, x: str) -> str:
    return net.op("Slice", x, net.ints(2, 2), net.ints(6, 6), net.ints(2, 3))


@pytest.mark.parametrize("flat", [False, True])
def test_a_piece_that_no_head_reads_is_refused_where_it_is_cut(flat: bool) -> None:
    found = refused(lambda net, x: net.op("Flatten", cut(net, x)) if flat else cut(net, x))
    assert found.code == "cut-out"
    assert found.node.startswith("node_slice")
    assert found.reason == "Slice cuts a piece out of the map of the native size, and no FC layer or pool reads it"


def test_places_that_no_head_reads_are_refused_where_they_are_picked() -> None:
    found = refused(lambda net, x: net.op("Gather", x, net.ints(2, 3), axis=2))
    assert found.code == "cut-out"
    assert found.node.startswith("node_gather")
    assert found.reason == "Gather picks places of the map of the native size, and no FC layer or pool reads it"


def test_a_flattened_map_has_no_head() -> None:
    found = refused(lambda net, x: net.op("Flatten", x))
    assert found.code == "no-head"
    assert found.reason == "its outputs are the flattened map itself: no FC layer and no global pool reads it"


def fc(net: Net, tensor: str, features: int) -> str:
    return net.fc(net.op("Flatten", tensor), features, 5)


def last(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 2, 3, 1])


CROP = {"coordinate_transformation_mode": "tf_crop_and_resize"}
COUNT = 4 * 14 * 14
NOT_THE_IMAGES: dict[str, Callable[[Net, str], str]] = {
    "Conv slides": lambda net, x: net.op("Conv", x, net.random(2, 14, 1, 1)),
    "ConvTranspose slides": lambda net, x: net.op("ConvTranspose", x, net.random(14, 2, 1, 1)),
    "MaxPool slides": lambda net, x: net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "InstanceNormalization normalises": lambda net, x: net.op(
        "InstanceNormalization", x, net.random(14), net.random(14)
    ),
    "SpaceToDepth works": lambda net, x: net.op("SpaceToDepth", x, blocksize=2),
}


@pytest.mark.parametrize("said", NOT_THE_IMAGES)
def test_axes_that_are_not_the_images(said: str) -> None:
    """Channels lie last, and are taken for the width; nothing is rewritten by halves."""
    found = refused(lambda net, x: net.op("GlobalAveragePool", NOT_THE_IMAGES[said](net, last(net, x))))
    assert (found.code, found.reason.partition(" on ")[0].partition(" over ")[0]) == ("layout", said)
    assert found.reason.endswith("axes that are not the image's")


OTHERS: dict[str, tuple[str, Callable[[Net, str], str]]] = {
    "Tile puts copies of the map side by side, so that its borders would move inside": (
        "size-locked",
        lambda net, x: fc(net, net.op("Tile", x, net.ints(1, 1, 2, 1)), 2 * COUNT),
    ),
    "Tile repeats the images of a batch, or how often is not constant": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Tile", x, net.ints(2, 1, 1, 1)), COUNT),
    ),
    "Resize resizes other axes than the image's": (
        "mixes-channels",
        lambda net, x: fc(net, net.op("Resize", x, "", net.const([1, 2, 1, 1])), 2 * COUNT),
    ),
    "Resize crops to a region of the native size": (
        "size-locked",
        lambda net, x: fc(
            net,
            net.op("Resize", x, net.const([0, 0, 0, 0, 1, 1, 1, 1]), net.const([1, 1, 2, 2]), **CROP),
            4 * COUNT,
        ),
    ),
    "Concat concatenates batches": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Concat", x, x, axis=0), COUNT),
    ),
    "Softmax normalises over the batch": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Softmax", x, axis=0), COUNT),
    ),
    "Unsqueeze puts an axis before the batch": ("mixes-batch", lambda net, x: net.op("Unsqueeze", x, net.ints(0))),
    "ReduceMean reduces over the batch": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("ReduceMean", x, axes=[0]), COUNT),
    ),
    "LayerNormalization normalises over the places of the native size, each with its own scale": (
        "position-table",
        lambda net, x: fc(net, net.op("LayerNormalization", x, net.random(14), net.random(14)), COUNT),
    ),
    "LRN works on axis 1, which is one of the image's": (
        "layout",
        lambda net, x: fc(net, net.op("LRN", last(net, x), size=3), COUNT),
    ),
}


@pytest.mark.parametrize("said", OTHERS)
def test_what_cannot_be_computed_window_by_window(said: str) -> None:
    code, end = OTHERS[said]
    found = refused(end)
    assert (found.code, found.reason) == (code, said)
    assert found.node.startswith(f"node_{said.partition(' ')[0].lower()}_")
