"""What slides says all of its window: a Conv its five attributes, and nothing is left to auto_pad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from onnxfc.forms.draft import Draft
from onnxfc.graph.index import attributes, copied, remarks
from onnxfc.graph.op_kinds import COVERING, FLOATS, POOLS, WEIGHT_AT, same_pads


def explicit_windows(draft: Draft) -> Draft:
    """kernel_shape, strides, pads, dilations and group of every Conv; pads of pools, at this size. A pool that covers
    its map is a global one."""
    return draft.with_nodes(_explicit(draft, node) for node in draft.nodes)


def _explicit(draft: Draft, node: onnx.NodeProto) -> onnx.NodeProto:
    told = attributes(node)
    if node.op_type in WEIGHT_AT and draft.specs[node.input[WEIGHT_AT[node.op_type]]].shapes is not None:
        kernel = told.get("kernel_shape") or draft.specs[node.input[WEIGHT_AT[node.op_type]]].native[2:]
        return _with(node, _window(draft, node, told, kernel) | {"group": told.get("group", 1)})
    if node.op_type in COVERING and _covers(draft, node, told):
        made = helper.make_node(f"Global{node.op_type}", node.input, node.output, name=node.name)
        made.MergeFrom(remarks(node))
        return made
    if node.op_type in POOLS and told.get("auto_pad", "NOTSET") != "NOTSET":
        window = _window(draft, node, told, told["kernel_shape"])
        return _with(node, {key: window[key] for key in ("kernel_shape", "strides", "pads")})
    return node


def _covers(draft: Draft, node: onnx.NodeProto, told: Mapping[str, Any]) -> bool:
    """Whether a pool has one window, the whole map of floats: there is no global pool of integers."""
    spec, padded = draft.specs[node.input[0]], any(told.get("pads", ()))
    extent = spec.native[2:]
    plain = (
        spec.dtype in FLOATS
        and not padded
        and told.get("auto_pad", "NOTSET") in {"NOTSET", "VALID"}
        and len(node.output) == 1
    )
    return plain and tuple(told["kernel_shape"]) == extent and set(told.get("dilations", (1,))) == {1}


def _window(draft: Draft, node: onnx.NodeProto, told: Mapping[str, Any], kernel: Any) -> dict[str, Any]:
    ones = [1] * len(kernel)
    strides, dilations = told.get("strides", ones), told.get("dilations", ones)
    pads, auto = told.get("pads", [0] * (2 * len(kernel))), told.get("auto_pad", "NOTSET")
    if auto != "NOTSET":
        extent = draft.specs[node.input[0]].native[2:]
        pads = [0] * (2 * len(kernel)) if auto == "VALID" else same_pads(auto, extent, kernel, strides, dilations)
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}


def _with(node: onnx.NodeProto, told: Mapping[str, Any]) -> onnx.NodeProto:
    """The node with these attributes in place of its own, and without auto_pad."""
    left = [item for item in node.attribute if item.name not in told and item.name != "auto_pad"]
    made = [helper.make_attribute(key, value if key == "group" else list(value)) for key, value in told.items()]
    return copied(node, attribute=[*left, *made])
