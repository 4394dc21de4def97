"""What of a model fits an accelerator: limits from data files, each with its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runs import ROOT, here, unwrapped
from fixture_files import fixture_file
from hazards import Net
from schemas import follows

from onnxfc import ReadError, RewriteOptions, UsageError, inspect, rewrite
from onnxfc.cli.common import PROFILE
from onnxfc.forms.figures import FIGURES
from onnxfc.forms.profile import Fit, Limit, Profile

FILES = sorted((ROOT / "onnxfc" / "forms" / "profiles").glob("*.json"))
ALEXNET = fixture_file("mini_alexnet.dynamo.onnx")
"""Its first Conv is 11x11, its first FC layer reads 6x6."""


def profile(folder: Path, *limits: dict[str, Any]) -> str:
    path = folder / "own.json"
    path.write_text(json.dumps({"title": "My chip", "limits": [{"source": "its manual", **item} for item in limits]}))
    return str(path)


def outside(fit: Fit | None) -> list[tuple[str, ...]]:
    assert fit is not None
    return [tuple(value for _, value in item.outside) for item in fit.findings]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_profiles_of_the_package(path: Path) -> None:
    found = Profile.of(path.stem)
    assert found.title
    assert found.limits
    assert all(limit.source.startswith("https://") for limit in found.limits)
    assert f"{path.stem}," in PROFILE


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ti-tidl", [("11x11", "6x6"), (), (), (), (), ()]),
        ("amd-dpuczdx8g", [(), (), (), ()]),
        ("amd-dpucahx8h", [()] * 6),
        ("axelera", [("20",), ()]),
        ("arm-ethos-u", [()] * 8),
        ("kneron-kl520", [()] * 6),
        ("qualcomm-htp", [()]),
    ],
)
def test_alexnet(name: str, wrong: list[tuple[str, ...]]) -> None:
    """Known by its layers: a Conv 11x11, others 5x5 and 3x3, then FC layers of 6x6 and 1x1; opset 20."""
    seen = inspect(ALEXNET, profile=name)
    assert outside(seen.fit) == wrong


def test_limits_that_a_split_keeps() -> None:
    wanted = RewriteOptions(form="conv4d", max_kernel=5, profile="ti-tidl")
    done = rewrite(ALEXNET, options=wanted, prove=False)
    assert done.fit is not None
    assert done.fit.form == "--form conv4d --fixed-size 64x64"
    [kernels] = [item for item in done.fit.findings if item.limit.startswith("kernel of Conv")]
    assert not any(value == "11x11" for _, value in kernels.outside)
    assert "profile" in json.loads({item.key: item.value for item in done.model.metadata_props}["onnxfc.options"])
    assert "ti-tidl" not in str(done.model.metadata_props)


def test_every_figure(tmp_path: Path) -> None:
    """A Conv 3x2 of 2 channels to 3 with stride 2x1 and gaps of 2x1, a pool over its whole map, FC layers."""
    net = Net(17)
    features = net.conv(net.image(size=(11, 9)), 2, 3, (3, 2), strides=[2, 1], dilations=[2, 1])
    pool = net.op("GlobalAveragePool", net.op("Relu", features))
    model = net.model(net.fc(net.op("Flatten", pool), 3, 4))
    figures: dict[str, Any] = {
        "kernel": ("3x2", {"of": ["Conv"], "among": [1]}),
        "kernel height": ("5", {"of": ["Conv"], "most": 4}),
        "kernel area": ("10", {"of": ["Conv"], "most": 9}),
        "stride": ("2x1", {"of": ["Conv"], "most": 1}),
        "stride height": ("2", {"of": ["Conv"], "most": 1}),
        "dilation times channels": ("4x2", {"of": ["Conv"], "most": 3}),
        "output channels": ("4", {"of": ["Conv"], "most": 3}),
        "banks": ("12", {"of": ["Conv"], "most": 11}),
        "weight sum": ("1524", {"of": ["Conv"], "most": 1523}),
        "batch": ("1", {"of": ["Relu"], "least": 2}),
        "rank": ("4", {"of": ["Relu"], "most": 3}),
        "operator": ("Relu", {"none": ["Relu"]}),
        "auto_pad": ("NOTSET", {"of": ["Conv"], "none": ["NOTSET"]}),
        "opset": ("17", {"most": 16}),
    }
    assert set(figures) | {"alpha", "beta", "transA"} == {*FIGURES, "opset"}
    name = profile(tmp_path, *({"figure": key, **told} for key, (_, told) in figures.items()))
    found = inspect(model, profile=name)
    for (key, (value, _)), told in zip(figures.items(), outside(found.fit), strict=True):
        assert value in told, key
    area = profile(tmp_path, {"figure": "kernel area", "of": ["GlobalAveragePool"], "most": 31})
    assert outside(inspect(model, profile=area).fit) == [("32",)], "rows 4, columns 8"
    wide = profile(tmp_path, {"figure": "banks", "of": ["Conv"], "parallel": 2, "most": 5})
    assert outside(inspect(model, profile=wide).fit) == [("6",)], "3x2 places, 2 channels at once; then 3 channels: 2"


def test_gemms_of_a_model_that_has_no_other_form(tmp_path: Path) -> None:
    """Tokens have no conv4d: told is what --fixed-size writes."""
    name = profile(
        tmp_path,
        {"figure": "operator", "none": ["Gemm", "MatMul"]},
        {"figure": "alpha", "of": ["Gemm"], "among": [1.0]},
        {"figure": "beta", "of": ["Gemm"], "among": [1.0]},
        {"figure": "transA", "of": ["Gemm"], "among": [0]},
    )
    seen = inspect(fixture_file("convnext.dynamo.onnx"), profile=name)
    assert seen.fit is not None
    assert seen.fit.form.startswith("--fixed-size ")
    assert set(outside(seen.fit)[0]) == {"MatMul"}
    assert outside(seen.fit)[1:] == [(), (), ()]


def test_a_rewritten_model_is_looked_at_as_it_is(tmp_path: Path) -> None:
    done = rewrite(ALEXNET, options=RewriteOptions(fixed_size=(72, 72)), prove=False)
    name = profile(tmp_path, {"figure": "batch", "most": 1}, {"figure": "kernel", "of": ["Conv"], "most": 10})
    seen = inspect(done.file.loaded(), profile=name)
    assert seen.fit is not None
    assert seen.fit.form == "the file at 72x72 px"
    assert outside(seen.fit) == [(), ("11x11",)]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"figure": "colour", "most": 1, "source": "x"}, "figure 'colour' is none of kernel, "),
        ({"figure": "kernel", "source": "x"}, "allows everything: give least, most, among or none"),
        ({"figure": "kernel", "most": 1, "source": ""}, "the limit of 'kernel' has no source"),
    ],
)
def test_limits_that_mean_nothing(told: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        Limit(**told)
    with pytest.raises(ReadError, match=says):
        Profile.of(profile(tmp_path, told))


def test_profiles_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"profile a{9999}: is no file, and none of amd-dpucahx8h, "):
        inspect(fixture_file("digits.onnx"), profile="a" * 9999)
    with pytest.raises(UsageError, match="profile tpu: is no file, and none of amd-dpucahx8h, "):
        inspect(ALEXNET, profile="tpu")
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(ReadError, match="cannot be read"):
        inspect(ALEXNET, profile=str(tmp_path / "own.json"))
    with pytest.raises(UsageError, match="--profile is for models of one size"):
        RewriteOptions(profile="ti-tidl")


def test_on_the_command_line(tmp_path: Path) -> None:
    args = ("--profile", "ti-tidl")
    seen = here("inspect", ALEXNET, *args, "--report", tmp_path / "seen.json")
    assert seen.code == 0, seen.err
    text = unwrapped(seen.out)
    assert "profile         TI TIDL, as written by --form conv4d --fixed-size 64x64: 5 of 6 limits are kept" in text
    assert (
        "does not fit    kernel of Conv one of 1, 3, 5, 7: node_conv2d has 11x11, node_linear has 6x6 [https://" in text
    )
    done = here("rewrite", ALEXNET, tmp_path / "o.onnx", "--form", "conv4d", *args, "--report", tmp_path / "done.json")
    assert done.code == 0, done.err
    assert "5 of 6 limits are kept" in unwrapped(done.out)
    for command, name in (("inspect", "seen"), ("rewrite", "done")):
        document = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
        follows(document, command)
        assert document["fit"]["profile"] == "TI TIDL"
    assert here("check", ALEXNET, tmp_path / "o.onnx").code == 0
