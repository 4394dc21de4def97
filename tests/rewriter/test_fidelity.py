"""What the rewriting does not touch comes out byte for byte, and what the file says of itself is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import onnxfc
from fixture_files import fixture_file
from hazards import CHANNELS, FEATURES, NATIVE, WINDOW, Net, bodied, complete, head, proven, session
from onnx import TensorProto, helper, shape_inference

from onnxfc.rewriter.api import Rewrite

M = 6
DOMAIN = "example.local"


def rich(infer: bool = True) -> onnx.ModelProto:
    """A model with everything a model can carry."""
    net = Net(opset=21)
    tensor = net.op("Tanh", net.conv(net.image("N"), 2, CHANNELS), out="features")
    twice = net.op("Double", net.const(np.full((1, 1, 1), 0.5), "half"), out="doubled", domain=DOMAIN)
    gated = net.op("Mul", net.op("Add", tensor, twice), net.random(3, 1, 1))
    flat = net.op("Flatten", gated, out="flat")
    hidden = net.op("Relu", net.op("Gemm", flat, net.random(8, FEATURES, name="w1"), net.random(8), transB=1))
    net.op("Softmax", net.fc(hidden, 8, M), out="scores")
    function = helper.make_function(
        DOMAIN,
        "Double",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 21)],
    )
    function.doc_string = "twice as much"
    model = net.model("scores", ir=10, infer=False)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.functions.append(function)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", M], "the scores"))
    _decorate(model)
    return shape_inference.infer_shapes(model, strict_mode=True) if infer else model


def _decorate(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version, model.domain, model.model_version = (
        "hand",
        "7",
        "example",
        42,
    )
    model.doc_string = "a model"
    model.graph.doc_string = "a graph"
    model.graph.name = "the graph"
    model.metadata_props.add(key="labels", value="a,b,c,d,e,f")
    model.graph.metadata_props.add(key="graph", value="yes")
    model.graph.input[0].doc_string = "an image"
    model.graph.input[0].metadata_props.add(key="mean", value="0.5")
    model.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    for count, node in enumerate(model.graph.node):
        node.doc_string = f"node {count}"
        node.metadata_props.add(key="count", value=str(count))
    for tensor in model.graph.initializer:
        tensor.doc_string = f"weights {tensor.name}"
    notes = model.graph.quantization_annotation.add(tensor_name="features")
    notes.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="half")
    dead = helper.make_tensor("never read", TensorProto.FLOAT, [2], [1.0, 2.0])
    model.graph.initializer.append(dead)


@pytest.fixture(scope="module")
def pair() -> tuple[onnx.ModelProto, Rewrite]:
    model = rich()
    return model, proven(model)


def test_untouched_nodes_are_byte_for_byte(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    model, done = pair
    after = {node.name: node.SerializeToString(deterministic=True) for node in done.model.graph.node}
    trunk = [node for node in model.graph.node if node.op_type in {"Conv", "Tanh", "Add", "Mul"}]
    assert [node.op_type for node in trunk] == ["Conv", "Tanh", "Add", "Mul"]
    for node in trunk:
        assert after[node.name] == node.SerializeToString(deterministic=True)


def test_untouched_initializers_are_byte_for_byte(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    model, done = pair
    after = {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in done.model.graph.initializer}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in after and len(tensor.dims) != 2]
    assert len(kept) >= 7
    for tensor in kept:
        assert after[tensor.name] == tensor.SerializeToString(deterministic=True)
    assert "never read" in after


def test_replaced_weights_keep_their_doc_string(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    _, done = pair
    found = next(tensor for tensor in done.model.graph.initializer if tensor.name == "w1")
    assert found.doc_string == "weights w1"
    assert list(found.dims) == [8, CHANNELS, *WINDOW]


def test_model_and_graph_say_what_they_said(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    model, done = pair
    for key in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(done.model, key) == getattr(model, key)
    assert done.model.graph.name == "the graph"
    assert done.model.graph.doc_string == "a graph"
    assert [(item.key, item.value) for item in done.model.graph.metadata_props] == [("graph", "yes")]
    assert done.model.opset_import == model.opset_import
    assert done.model.graph.quantization_annotation == model.graph.quantization_annotation
    own = {item.key: item.value for item in done.model.metadata_props if not item.key.startswith("onnxfc.")}
    assert own == {"labels": "a,b,c,d,e,f"}
    said = {item.key: item.value for item in done.model.metadata_props if item.key.startswith("onnxfc.")}
    assert said["onnxfc.native_size"] == "[11, 9]"
    assert said["onnxfc.stride"] == "[2, 2]"
    assert said["onnxfc.start"] == "[0, 0]"
    assert said["onnxfc.verdict"] == '"exact"'


def test_functions_that_need_not_be_touched_stay(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    model, done = pair
    assert done.model.functions == model.functions


def test_input_and_output_keep_their_words(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    _, done = pair
    image, scores = done.model.graph.input[0], done.model.graph.output[0]
    assert (image.name, image.doc_string) == ("image", "an image")
    assert [(item.key, item.value) for item in image.metadata_props] == [("mean", "0.5")]
    dims = image.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 2, "height", "width"]
    assert dims[1].denotation == "DATA_CHANNEL"
    assert scores.doc_string == "the scores"
    dims = scores.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", M, "map_height", "map_width"]


@pytest.mark.parametrize("kind", ["Gemm", "Relu", "Softmax"])
def test_replaced_nodes_keep_their_metadata(pair: tuple[onnx.ModelProto, Rewrite], kind: str) -> None:
    """A Conv that stands for a Gemm is still that layer of the exporter's."""
    model, done = pair
    node = next(node for node in model.graph.node if node.op_type == kind)
    after = next(item for item in done.model.graph.node if item.name == node.name)
    assert after.op_type == ("Conv" if kind == "Gemm" else kind)
    if kind != "Gemm":
        assert after.metadata_props == node.metadata_props
        assert after.doc_string == node.doc_string


def test_conv_for_a_gemm_keeps_its_metadata(pair: tuple[onnx.ModelProto, Rewrite]) -> None:
    model, done = pair
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    after = next(item for item in done.model.graph.node if item.name == node.name)
    assert after.metadata_props == node.metadata_props
    assert after.doc_string == node.doc_string


def test_the_original_is_not_changed() -> None:
    model = rich()
    before = model.SerializeToString(deterministic=True)
    proven(model)
    assert model.SerializeToString(deterministic=True) == before


def test_twice_gives_the_same_bytes() -> None:
    one, two = (proven(rich()).model.SerializeToString(deterministic=True) for _ in range(2))
    assert one == two


# What the file says of its shapes


def shapes_are_true(done: Rewrite, size: tuple[int, int], batch: int) -> int:
    """Every value_info, input and output against what onnxruntime computes at another size; how many there are."""
    model = complete(done)
    infos = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in infos)
    shape = [batch, *done.claim.inputs[0].shape[1:]]
    for axis, length in zip(done.claim.inputs[0].spatial, size, strict=True):
        shape[axis] = length
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values = session(probe).run(None, {done.claim.inputs[0].name: image})
    known: dict[str, int] = {"height": size[0], "width": size[1]}
    for (name, info), value in zip(infos.items(), values, strict=True):
        if not info.type.tensor_type.HasField("shape"):
            continue
        dims = info.type.tensor_type.shape.dim
        assert len(dims) == value.ndim, name
        for dim, length in zip(dims, value.shape, strict=True):
            if dim.HasField("dim_value"):
                assert dim.dim_value == length, f"{name} says {dim.dim_value}, is {length}"
            elif dim.dim_param:
                assert known.setdefault(dim.dim_param, length) == length, f"{name}: {dim.dim_param} is not {length}"
    return len(infos)


BODIES = {
    "fc": lambda net, x: net.op("Softmax", net.fc(net.op("Flatten", x), FEATURES, M)),
    "fc in hwc": lambda net, x: net.fc(
        net.op("Flatten", net.op("Transpose", net.op("Relu", x), perm=[0, 2, 3, 1])), FEATURES, M
    ),
    "pool": lambda net, x: net.fc(net.op("Flatten", net.op("GlobalAveragePool", x)), CHANNELS, M),
    "pool alone": lambda net, x: net.op("Softmax", net.op("GlobalAveragePool", x), axis=1),
    "two": lambda net, x: [
        net.fc(net.op("Flatten", x), FEATURES, M),
        net.fc(net.op("Flatten", net.op("GlobalMaxPool", x)), CHANNELS, 2),
    ],
    "context": lambda net, x: net.fc(
        net.op("Flatten", net.op("Mul", x, net.op("Sigmoid", net.op("GlobalAveragePool", x)))), FEATURES, M
    ),
    "pairs": lambda net, x: net.op(
        "Softmax", net.op("Reshape", net.fc(net.op("Flatten", x), FEATURES, M), net.ints(-1, 2, 3))
    ),
    "computed": lambda net, x: net.fc(
        net.op(
            "Reshape",
            x,
            net.op("Concat", net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1)), net.ints(-1), axis=0),
        ),
        FEATURES,
        M,
    ),
    "layer norm": lambda net, x: net.fc(
        net.op("LayerNormalization", net.op("Flatten", x), net.random(FEATURES)), FEATURES, M
    ),
    "features": lambda net, x: [net.op("Relu", x), net.fc(net.op("Flatten", x), FEATURES, M)],
}


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("options", [{}, {"output": "mean"}, {"dynamic_batch": True}, {"global_pool": "keep"}])
def test_value_info_is_not_stale(name: str, batch: int | str, options: dict[str, object]) -> None:
    model = shape_inference.infer_shapes(bodied(BODIES[name], batch=batch), strict_mode=True, data_prop=True)
    assert len(model.graph.value_info) >= 3
    done = (
        proven(model, exact=name != "context" and "global_pool" not in options, crops=False, **options)
        if not ("global_pool" in options and "pool" not in name and name != "two")
        else proven(model, exact=name != "context", crops=False)
    )
    free = batch == "N" or bool(options.get("dynamic_batch"))
    inferred = shape_inference.infer_shapes(complete(done), strict_mode=True, check_type=True)
    assert len(inferred.graph.value_info) >= len(done.model.graph.value_info)
    for size, count in (((23, 17), 3), (NATIVE, 1), ((14, 16), 2)):
        assert shapes_are_true(done, size, count if free else 2) >= 3


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", [*BODIES, "baked"])
@pytest.mark.parametrize("form", ["map", "mean"])
def test_freed_batch_runs_at_any_batch(name: str, form: str) -> None:
    """A static batch of 2, freed: four images at once give what the original gives for two and two."""
    bodies = {
        **BODIES,
        "baked": lambda net, x: net.op(
            "Reshape", net.fc(net.op("Reshape", x, net.ints(2, FEATURES)), FEATURES, M), net.ints(2, 3, 2)
        ),
    }
    model = bodied(bodies[name], batch=2)
    exact = name != "context"
    done = proven(model, exact=exact, crops=False, dynamic_batch=True, output=form)
    images = np.random.default_rng(0).standard_normal((4, 2, *NATIVE)).astype(np.float32)
    found = session(complete(done)).run(None, {"image": images})
    pairs = [session(model).run(None, {"image": images[first : first + 2]}) for first in (0, 2)]
    for got, *want in zip(found, *pairs, strict=True):
        expected = np.concatenate(want)
        assert got.shape[0] == 4
        np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["map", "mean", "max"])
def test_output_shapes(form: str) -> None:
    done = proven(head(lambda net, flat: net.fc(flat, FEATURES, M), batch="N"), output=form)
    dims = [dim.dim_param or dim.dim_value for dim in done.model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == (["N", M, "map_height", "map_width"] if form == "map" else ["N", M])


def test_stride_one_map_has_names_of_its_own() -> None:
    """An FC on the pixels: the map is not as large as the image."""
    net = Net()
    done = proven(net.model(net.fc(net.op("Flatten", net.input("image", [1, 2, 5, 4])), 40, M)))
    dims = [dim.dim_param or dim.dim_value for dim in done.model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == [1, M, "map_height", "map_width"]
    assert shapes_are_true(done, (9, 7), 1) == 1


def taken(batch: str) -> onnx.ModelProto:
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(batch), 2, CHANNELS), out="onnxfc_const")
    flat = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]), out="onnxfc_shape")
    weights = [net.random(8, FEATURES, name="onnxfc_bias"), net.random(8, name="w_conv")]
    hidden = net.op("Gemm", flat, *weights, out="y_conv", transB=1)
    pairs = net.op("Reshape", hidden, net.ints(-1, 2, 4), out="onnxfc_shape_2")
    return net.model(net.op("Softmax", pairs, out="onnxfc_axes"))


def test_names_that_are_taken_already() -> None:
    """Tensors of the original named as onnxfc would name its own."""
    done = proven(taken("N"))
    names = [name for node in done.model.graph.node for name in node.output]
    names += [tensor.name for tensor in done.model.graph.initializer]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("batch", ["height", "width"])
def test_dims_whose_names_are_taken_already(batch: str) -> None:
    done = proven(taken(batch))
    dims = [dim.dim_param or dim.dim_value for dim in done.model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[0] == batch
    assert len({dims[0], dims[2], dims[3]}) == 3, "the batch and the height are not the same dim"


def test_nodes_without_names() -> None:
    model = head(lambda net, flat: net.fc(net.op("Relu", net.fc(flat, FEATURES, 8)), 8, M))
    for node in model.graph.node:
        node.name = ""
    done = proven(model)
    assert [item.before for item in done.replacements] == ["Gemm 60→8", "Gemm 8→6"]


def test_pools_without_names() -> None:
    """The role of a pool is kept by its name: one is context and the other the head."""

    def body(net: Net, tensor: str) -> str:
        gated = net.op("Mul", tensor, net.op("Sigmoid", net.op("GlobalAveragePool", tensor)))
        return net.fc(net.op("Flatten", net.op("GlobalAveragePool", gated)), CHANNELS, M)

    model = bodied(body)
    for node in model.graph.node:
        node.name = ""
    done = proven(model, exact=False)
    assert [output.form for output in done.claim.outputs] == ["map"]


@pytest.mark.parametrize("batch", [1, "N"])
def test_function_in_the_trunk(batch: int | str) -> None:
    """Of the model's own; what it does to each element leaves the map a map."""

    def body(net: Net, tensor: str) -> str:
        return net.fc(net.op("Flatten", net.op("Double", tensor, domain=DOMAIN)), FEATURES, M)

    model = bodied(body, batch=batch, infer=False)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    model.functions.append(helper.make_function(DOMAIN, "Double", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, [batch, M])
    )
    proven(shape_inference.infer_shapes(model, strict_mode=True))


def test_input_that_nothing_reads_is_kept() -> None:
    model = head(lambda net, flat: net.fc(flat, FEATURES, M))
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.INT64, [3]))
    done = proven(model, crops=False)
    assert [info.name for info in done.model.graph.input] == ["image", "unused"]


def test_the_same_file_in_every_process(tmp_path: Path) -> None:
    """Whatever the order of Python's sets: here windows are cut out of two tensors that were one."""
    made = []
    for seed in ("1", "4"):
        out = tmp_path / f"{seed}.onnx"
        done = onnxfc("rewrite", fixture_file("token_pools.dynamo.onnx"), out, "--no-check", "-q", PYTHONHASHSEED=seed)
        assert done.code == 0
        made.append(out.read_bytes())
    assert made[0] == made[1]
