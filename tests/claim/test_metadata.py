"""Claims in metadata that no rewrite could have written: one clear line, never a traceback."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from fixture_files import fixture_file

from onnxfc import Claim, ReadError, rewrite
from onnxfc.claim.claim import PREFIX
from onnxfc.cli.main import main

LENET = fixture_file("lenet.dynamo.onnx")


@cache
def claim() -> Claim:
    return rewrite(LENET, prove=False).claim


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Claim)])
def test_damaged_claims_of_any_kind_are_read_errors(field: str) -> None:
    metadata = claim().to_metadata()
    assert Claim.from_metadata(metadata) == claim()
    lists = [
        "[99999999999999999999, 4]",
        "[1]",
        "[1, 2, 3, 4]",
        '["a", "b"]',
        "[null, 1]",
        "[[28], [28]]",
        "[1.5, 2]",
        "[true, true]",
        "[-1, -1]",
    ]
    for value in ("", "{", '{"a": 1}', "7", "true", "null", '"x"', "[" * 10**5, *lists):
        harmless = {"start": "[-1, -1]", **dict.fromkeys(("blame", "detections"), '["a", "b"]')}.get(field)
        if value != harmless:
            with pytest.raises(ReadError, match="metadata is damaged"):
                Claim.from_metadata({**metadata, PREFIX + field: value})


LEGAL = {"start": ([9, 9], [0, -1]), "name": ("",), "original": ("",), "rewritten": ("",)}
LEGAL |= dict.fromkeys(("stride", "per", "size", "extent", "step"), ([9, 9],))


@pytest.mark.parametrize("field", ["inputs", "boundaries", "outputs"])
def test_damaged_parts_of_claims_are_read_errors(field: str) -> None:
    metadata = claim().to_metadata()
    part = json.loads(metadata[PREFIX + field])[0]
    for key in part:
        for value in ("", 7, {}, [9, 9], [0], ["a", "b"], [None, 1], [[1], [1]], [0, -1], [10**20, 9]):
            if value not in LEGAL.get(key, ()):
                with pytest.raises(ReadError, match="metadata is damaged"):
                    Claim.from_metadata({**metadata, PREFIX + field: json.dumps([{**part, key: value}])})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("slack", "[4, 4]", r"slack is \(4, 4\), not below the stride"),
        ("period", "[8193, 1]", r"period is \(8193, 1\)"),
        ("native_size", "[0, 28]", r"native_size is \(0, 28\)"),
        ("size_step", "[1, 0]", r"size_step is \(1, 0\)"),
    ],
)
def test_figures_that_no_network_has(field: str, value: str, said: str) -> None:
    assert claim().stride == (4, 4)
    with pytest.raises(ReadError, match=said):
        Claim.from_metadata({**claim().to_metadata(), PREFIX + field: value})


def test_figures_that_a_network_may_have() -> None:
    told = {"slack": "[3, 3]", "period": "[8192, 1]"}
    made = Claim.from_metadata({**claim().to_metadata(), **{PREFIX + name: value for name, value in told.items()}})
    assert made is not None
    assert (made.slack, made.period) == ((3, 3), (8192, 1))


def test_an_output_of_which_half_is_told() -> None:
    metadata = claim().to_metadata()
    part = json.loads(metadata[PREFIX + "outputs"])[0]
    assert part["stride"] == [4, 4]
    for damage in ({"per": []}, {"axes": []}):
        with pytest.raises(ReadError, match="metadata is damaged"):
            Claim.from_metadata({**metadata, PREFIX + "outputs": json.dumps([{**part, **damage}])})


DAMAGES = [
    ("native_size", "[99999999999999999999, 4]"),
    ("stride", "[0, 0]"),
    ("blame", "7"),
    ("outputs", '[{"name": "scores"}]'),
]


@pytest.mark.parametrize(("field", "value"), DAMAGES)
def test_commands_on_damaged_claims(field: str, value: str, tmp_path: Path) -> None:
    model = rewrite(LENET, prove=False).model
    for item in model.metadata_props:
        if item.key == PREFIX + field:
            item.value = value
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    for arguments in (["check", str(LENET), str(other)], ["inspect", str(other)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert result.output.startswith("onnxfc: the model's onnxfc.* metadata is damaged: ")
        assert result.output.count("\n") == 1
