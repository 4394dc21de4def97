"""Forms of what is no plain classifier of one image: unbatched images, lists of places, quantised networks."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file, must_run
from hazards import complete

from onnxfc import RewriteOptions
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import Written

LISTS = ["list_anchors", "list_flattened", "list_last", "list_places", "list_tokens"]
SIZES = {**dict.fromkeys(LISTS, (32, 32)), "unbatched": (18, 18), "unbatched_last": (18, 18)}
INTEGERS = ["lenet.qdq", "lenet.qdq_int4", "lenet.qoperator", "mobilenet.qdq", "digits.qdq_opset21"]
DYNAMIC = ["lenet.dynamic", "se_net.dynamic", "digits.dynamic", "mini_resnet.dynamic"]
NO_MAPS = {
    "keras_int8.export": "of what is written for it, Gather makes",
    "list_places.dynamo": "makes 1x512x3, no map",
}


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


def made(name: str, **options: object) -> Rewrite:
    return rewrite(loaded(name), options=RewriteOptions(**options))


def values(model: onnx.ModelProto) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    assert all(isinstance(length, int) for length in given.shape)
    image = np.random.default_rng(4).random(given.shape).astype(np.float32)
    return list(session.run(None, {given.name: image}))


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", SIZES)
def test_one_size_says_what_the_original_does(name: str, exporter: str) -> None:
    done = made(f"{name}.{exporter}", fixed_size=SIZES[name])
    for new, old in zip(values(complete(done)), values(loaded(f"{name}.{exporter}")), strict=True):
        assert new.size == old.size
        np.testing.assert_allclose(new.ravel(), old.ravel(), atol=1e-6)
    lists = name in LISTS
    assert done.claim.outputs[0].form == ("list" if lists else "map")


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", [*INTEGERS, *DYNAMIC])
def test_integers_as_maps_alone(name: str) -> None:
    """To the bit, in the original's shape."""
    must_run(name)
    done = made(name, form="conv4d", keep_output_shape=True)
    new, old = values(complete(done))[0], values(loaded(name))[0]
    np.testing.assert_array_equal(new, old)
    kinds = {node.op_type for node in complete(done).graph.node}
    assert not kinds & {"Gemm", "MatMul", "QGemm", "QLinearMatMul", "MatMulInteger", "Flatten", "Transpose"}


@pytest.mark.parametrize("name", ["lenet.dynamic", "digits.dynamic", "mobilenet.dynamic", "mobilenet.nbits4"])
def test_other_integers_of_one_size(name: str) -> None:
    must_run(name)
    done = made(name, fixed_size=loaded_size(name))
    np.testing.assert_allclose(values(complete(done))[0].ravel(), values(loaded(name))[0].ravel(), atol=2e-6)


def loaded_size(name: str) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in loaded(name).graph.input[0].type.tensor_type.shape.dim[2:])


@pytest.mark.parametrize("name", NO_MAPS)
def test_what_is_no_map_is_refused(name: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        made(name, form="conv4d")
    assert caught.value.refusals[0].code == "form-not-4d"
    assert NO_MAPS[name] in caught.value.refusals[0].reason
    own = {node.name for node in loaded(name).graph.node}
    assert all(item.node in own for item in caught.value.refusals)
    assert len({(item.code, item.node) for item in caught.value.refusals}) == len(caught.value.refusals)


def test_weights_in_blocks_are_no_convs() -> None:
    with pytest.raises(NothingToRewrite) as caught:
        made("mobilenet.nbits4", form="conv4d")
    assert {item.code for item in caught.value.refusals} == {"form-fc-left"}
    done = made("mobilenet.nbits4", form="conv4d", dequantize_head=True)
    kinds = [node.op_type for node in complete(done).graph.node]
    assert "MatMulNBits" not in kinds
    assert "Transpose" not in kinds
    np.testing.assert_allclose(
        values(complete(done))[0].ravel(), values(loaded("mobilenet.nbits4"))[0].ravel(), atol=1e-5
    )


@pytest.mark.parametrize("name", ["unbatched.dynamo", "list_places.dynamo"])
def test_nothing_to_turn_back(name: str) -> None:
    form: Written = "gemm"
    with pytest.raises(NothingToRewrite) as caught:
        made(name, form=form)
    assert caught.value.refusals[0].code == "no-covering-conv"
