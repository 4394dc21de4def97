"""Pairs of which the second takes any number of images, and mixes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete
from onnx import helper, numpy_helper

from onnxfc import RewriteOptions, check_pair, rewrite


def _freed(name: str, **options: Any) -> onnx.ModelProto:
    return complete(rewrite(fixture_file(name), options=RewriteOptions(dynamic_batch=True, **options), prove=False))


def _behind(model: onnx.ModelProto, nodes: list[onnx.NodeProto], **numbers: Any) -> onnx.ModelProto:
    """``nodes`` between the first Conv and what reads it: from ``as_it_was`` to ``changed``."""
    at, first = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    name, first.output[0] = first.output[0], "as_it_was"
    nodes[-1].output[0] = name
    for k, node in enumerate(nodes):
        model.graph.node.insert(at + 1 + k, node)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in numbers.items())
    return model


def rolled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each image gets the features of the next."""
    nodes = [
        helper.make_node("Slice", ["as_it_was", "one", "far", "zero"], ["others"]),
        helper.make_node("Slice", ["as_it_was", "zero", "one", "zero"], ["first"]),
        helper.make_node("Concat", ["others", "first"], ["changed"], axis=0),
    ]
    return _behind(model, nodes, zero=np.array([0]), one=np.array([1]), far=np.array([1 << 40]))


def halved_from_the_third(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Slice", ["as_it_was", "zero", "two", "zero"], ["two_images"]),
        helper.make_node("Slice", ["as_it_was", "two", "far", "zero"], ["others"]),
        helper.make_node("Mul", ["others", "half"], ["less"]),
        helper.make_node("Concat", ["two_images", "less"], ["changed"], axis=0),
    ]
    numbers = {"zero": np.array([0]), "two": np.array([2]), "far": np.array([1 << 40]), "half": np.float32(0.5)}
    return _behind(model, nodes, **numbers)


CASES = (
    ("lenet.dynamo.onnx", {}),
    ("side.dynamo.onnx", {"global_pool": "keep"}),
    ("keras_rescaled.tf2onnx.onnx", {"global_pool": "keep"}),
    ("columns_lstm.dynamo.onnx", {"free": ("width",)}),
)


@pytest.mark.sweep(12)
@pytest.mark.parametrize("damage", [rolled, halved_from_the_third])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_images_that_are_mixed(name: str, options: dict[str, Any], damage: Any, *, bare: bool) -> None:
    """Also beside side inputs whose batch stays, and where the batch is not an output's first axis."""
    for model, right in ((_freed(name, **options), True), (damage(_freed(name, **options)), False)):
        if bare:
            del model.metadata_props[:]
        assert check_pair(fixture_file(name), model, options=CHECK).passed == right
