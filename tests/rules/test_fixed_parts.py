"""A map in a few long parts, as exporters of one size leave adaptive pools, stripes and rolls: the report says so."""

from __future__ import annotations

import numpy as np
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, session

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

CUT = "they stay as long at every size, and larger images have more of them; where the network has"
ROLLED = "rolls the map around by 4 of 16 places, and by as many at every size; where that is a part of the image"
STRIPES = f"cuts 16 places into 4 parts of 4: {CUT} 4 of every image, keep its native size"
QUARTERS = f"cuts 16x16 places into 2x2 parts of 8x8: {CUT} 2x2 of every image, keep its native size"


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("few_parts.torchscript", {"/Reshape": STRIPES, "/Concat": f"{ROLLED}, keep its native size"}),
        ("few_parts.dynamo", {"node_view": STRIPES, "node_roll": f"{ROLLED}, keep its native size"}),
        ("few_parts_pooled.torchscript", {"/AveragePool": QUARTERS}),
        ("few_parts_pooled.dynamo", {"node_avg_pool2d": QUARTERS}),
    ],
)
def test_parts_of_maps_that_exporters_write(file: str, told: dict[str, str]) -> None:
    done = rewrite(fixture_file(f"{file}.onnx"), check_options=CHECK)
    found = {note.node: note.reason for note in done.notes if note.code == "fixed-parts"}
    assert found == told


@pytest.mark.parametrize(("parts", "told"), [(2, True), (4, False)])
@pytest.mark.parametrize("head", [False, True])
def test_what_is_no_part_of_the_image(parts: int, told: bool, head: bool) -> None:
    """Many short parts are what pools and patches make; cells have their crop's."""
    net = Net()
    pooled = net.op("MaxPool", net.image(1, (8, 8), 2), kernel_shape=[8 // parts] * 2, strides=[8 // parts] * 2)
    made = net.op("Relu", net.conv(pooled, 2, 3, (1, 1), strides=[1, 1]))
    model = net.model(net.fc(net.op("Flatten", made), 3 * parts**2, 4) if head else made)
    done = rewrite(model, check_options=CHECK)
    assert any(note.code == "fixed-parts" for note in done.notes) == (told and not head)


@pytest.mark.parametrize(("width", "told"), [(16, True), (8, False)])
def test_short_parts_that_are_as_wide_as_the_map(width: int, told: bool) -> None:
    """4 parts of 3 rows, each over all columns, as an adaptive pool to (4, 1) is written; half as wide is any pool."""
    net = Net()
    pooled = net.op("AveragePool", net.image(1, (12, 16), 2), kernel_shape=[3, width], strides=[3, width])
    done = rewrite(net.model(pooled), options=RewriteOptions(free=("height",)), check_options=CHECK)
    assert [note.reason for note in done.notes if note.code == "fixed-parts"] == (
        [f"cuts 12 places into 4 parts of 3: {CUT} 4 of every image, keep its native size"] if told else []
    )


@pytest.mark.parametrize("free", ["height", "width"])
def test_rows_of_tokens_that_are_a_map_again_are_no_parts(free: str) -> None:
    """The columns of each row stay, as all of its tokens do."""
    for exporter in ("torchscript", "dynamo"):
        done = rewrite(fixture_file(f"row_tokens.{exporter}.onnx"), options=RewriteOptions(free=(free,)), prove=False)
        assert not any(note.code == "fixed-parts" for note in done.notes)


def test_they_are_as_long_at_every_size() -> None:
    """As the note says: a pool over 4x4 of 8x8 places has 3x2 windows over 12x8."""
    net = Net()
    pooled = net.op("AveragePool", net.image(1, (8, 8), 2), kernel_shape=[4, 4], strides=[4, 4])
    done = rewrite(net.model(pooled), options=RewriteOptions(), check_options=CHECK)
    image = np.random.default_rng(3).standard_normal((1, 2, 12, 8)).astype(np.float32)
    [got] = session(complete(done)).run(None, {"image": image})
    np.testing.assert_allclose(got, image.reshape(1, 2, 3, 4, 2, 4).mean((3, 5)), atol=1e-6)
