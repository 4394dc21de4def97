"""Node data for Model Explorer: its documented format, the nodes' own names, figures that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from cli_runs import fails, here
from fixture_files import fixture_file

COLOUR = {"type": "string", "pattern": "^#[0-9a-f]{6}$"}
GRAPH_NODE_DATA = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "name": {"type": "string"},
        "results": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["value"],
                "properties": {"value": {"type": ["number", "string"]}, "bgColor": COLOUR, "textColor": COLOUR},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
"""What Model Explorer's user guide and its ``node_data_builder`` say of the data of one graph, as far as it is used."""


def results(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text("utf-8"))
    jsonschema.validate(document, GRAPH_NODE_DATA)
    return {key: item["value"] for key, item in document["results"].items()}


def test_figures_of_a_small_network(tmp_path: Path) -> None:
    """3x3 Conv, 2x2 pool, three times, padded: 3, 4, 8, 10, 18 and 22 pixels."""
    model = fixture_file("mini_vgg.dynamo.onnx")
    assert here("inspect", model, "--report", "vgg.nodes.json", cwd=tmp_path).code == 0
    found = results(tmp_path / "vgg.nodes.json")
    assert found["node_conv2d"] == "padding; stride 1x1, reads 3x3 px from -1, -1"
    assert found["node_max_pool2d"] == "stride 2x2, reads 4x4 px from -1, -1"
    assert found["node_conv2d_1"] == "padding; stride 2x2, reads 8x8 px from -3, -3"
    assert found["node_max_pool2d_1"] == "stride 4x4, reads 10x10 px from -3, -3"
    assert found["node_relu_2"] == "stride 4x4, reads 18x18 px from -7, -7"
    assert found["node_max_pool2d_2"] == "stride 8x8, reads 22x22 px from -7, -7"
    assert found.keys() <= {node.name for node in onnx.load(model).graph.node}


def test_of_a_rewrite_it_is_the_result(tmp_path: Path) -> None:
    """Also its head: a 7x7 Conv at stride 8 behind 22 pixels reads 22 + 6 * 8."""
    model = fixture_file("mini_vgg.dynamo.onnx")
    assert here("rewrite", model, "any.onnx", "-q", "--report", "any.nodes.json", cwd=tmp_path).code == 0
    found = results(tmp_path / "any.nodes.json")
    assert found.keys() == {node.name for node in onnx.load(tmp_path / "any.onnx").graph.node}
    assert found["node_linear"] == "stride 8x8, reads 70x70 px from -7, -7"


@pytest.mark.parametrize("name", ["se_net.torchscript", "conv1d.dynamo", "keras_flatten.export", "table.dynamo"])
def test_other_models(name: str, tmp_path: Path) -> None:
    """Operators of the whole image, signals, channels last, a refusal."""
    assert here("inspect", fixture_file(f"{name}.onnx"), "--report", "x.nodes.json", cwd=tmp_path).code == 0
    found = results(tmp_path / "x.nodes.json")
    nodes = onnx.load(fixture_file(f"{name}.onnx")).graph.node
    assert found.keys() <= {node.name for node in nodes} | {made for node in nodes for made in node.output}
    if name == "se_net.torchscript":
        assert found["/3/GlobalAveragePool"] == "context"
    if name == "table.dynamo":
        assert any(value.startswith("refused: ") for value in found.values())


def test_a_refusal_marks_its_node(tmp_path: Path) -> None:
    run = here("rewrite", fixture_file("table.dynamo.onnx"), "x.onnx", "--report", "x.nodes.json", cwd=tmp_path)
    assert run.code == 3
    assert results(tmp_path / "x.nodes.json") == {"node_add": "refused: position-table"}


def test_it_is_for_one_model_and_replaces_reports_alone(tmp_path: Path) -> None:
    model = fixture_file("lenet.dynamo.onnx")
    said = fails(2, "check", model, model, "--report", "x.nodes.json", cwd=tmp_path)
    assert said.endswith("--report x.nodes.json: is for one model; `onnxfc inspect MODEL --report` writes it")
    (tmp_path / "x.nodes.json").write_text('{"mine": 1}')
    assert "exists and is not a report" in fails(2, "inspect", model, "--report", "x.nodes.json", cwd=tmp_path)
    (tmp_path / "x.nodes.json").unlink()
    for _ in range(2):
        assert here("inspect", model, "--report", "x.nodes.json", cwd=tmp_path).code == 0
