"""Every exporter's fixture ends as its index entry says: proven, with the right geometry and the right verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxfc.errors import NothingToRewrite
from onnxfc.proof import CheckOptions
from onnxfc.rewrite import Rewrite, RewriteOptions, rewrite

FOLDER = Path(__file__).parent.parent / "fixtures"
INDEX = {entry["file"]: entry for entry in json.loads((FOLDER / "index.json").read_text())["fixtures"]}
REFUSED = {"lenet.dynamic_quant.onnx": "quantised", "lenet.qdq.onnx": "quantised"}
"""Quantised heads are to come; until then they are refused by name."""
for kind in ("dynamo", "torchscript"):
    REFUSED |= {f"table.{kind}.onnx": "position-table", f"rolled.{kind}.onnx": "flipped"}
HEADLESS = sorted(name for name, entry in INDEX.items() if not entry["window"])
"""Networks without an FC layer; tests/test_trunk_exports.py has them."""
REWRITTEN = sorted(INDEX.keys() - REFUSED.keys() - set(HEADLESS))
IN_TRUNK = {"se_net": 2, "rows": 3, "token_head": 1, "excited": 2, "keras_dense_map": 2}
"""FC layers of context, or over the channels of each place: these stay."""


def options(entry: dict[str, Any], **more: Any) -> RewriteOptions:
    return RewriteOptions(size=tuple(entry["native_size"]) if set(entry["dynamic"]) - {"batch"} else None, **more)


def rewritten(file: str, **more: Any) -> Rewrite:
    return rewrite(FOLDER / file, options=options(INDEX[file], **more), check_options=CheckOptions(threads=1))


@pytest.mark.parametrize("file", REWRITTEN)
def test_proven(file: str) -> None:
    entry, result = INDEX[file], rewritten(file)
    parity = result.parity
    assert parity is not None
    assert parity.passed
    assert parity.native.status == parity.window.status == "passed"
    assert parity.native.deviation < 1e-4
    assert parity.window.deviation < 1e-4
    assert result.claim.native_size == tuple(entry["native_size"])
    exact = entry["pad_free"] and not entry["context"]
    assert result.claim.verdict == ("exact" if exact else "approximate")
    if exact:
        assert parity.crops.deviation < 1e-5
    else:
        assert result.claim.blame


@pytest.mark.parametrize("file", REWRITTEN)
def test_no_fc_layer_is_left_in_the_head(file: str) -> None:
    result = rewrite(FOLDER / file, options=options(INDEX[file]), prove=False)
    onnx.checker.check_model(result.model, full_check="optimised" not in file)
    left = [node.op_type for node in result.model.graph.node if node.op_type in {"Gemm", "MatMul"}]
    assert len(left) == IN_TRUNK.get(file.split(".")[0], 0)
    assert "Flatten" not in {node.op_type for node in result.model.graph.node}


@pytest.mark.parametrize("form", ["mean", "max"])
@pytest.mark.parametrize(
    "file", ["lenet.dynamo.onnx", "mini_squeezenet.torchscript.onnx", "keras_softmax.tf2onnx.onnx"]
)
def test_reduced_outputs_keep_the_original_shape(file: str, form: str) -> None:
    result = rewritten(file, output=form)
    original = onnx.load(FOLDER / file).graph.output[0].type.tensor_type.shape
    now = result.model.graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in now.dim][1:] == [dim.dim_value for dim in original.dim][1:]


@pytest.mark.parametrize("file", [name for name in REWRITTEN if INDEX[name]["head"].startswith(("global", "mean"))])
def test_global_pool_kept(file: str) -> None:
    result = rewritten(file, global_pool="keep")
    assert result.parity is not None
    assert result.parity.passed


@pytest.mark.parametrize("file", REWRITTEN)
def test_dynamic_batch(file: str) -> None:
    result = rewritten(file, dynamic_batch=True)
    parity = result.parity
    assert parity is not None
    assert parity.passed
    assert not result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value


@pytest.mark.parametrize("file", REFUSED)
def test_refused(file: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(FOLDER / file)
    assert caught.value.refusals[0].code == REFUSED[file]
