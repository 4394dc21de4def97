"""Metadata that say less than they could, which is told, and metadata of cells that read more than they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete

from onnxfc import check_pair, rewrite
from onnxfc.checker import api
from onnxfc.checker.said_less import false_field, own_rewrites, said_less
from onnxfc.claim.claim import Claim
from onnxfc.errors import OnnxfcError
from onnxfc.rewriter.options import RewriteOptions

NETS = [
    *(
        "lenet.dynamo",
        "lenet_batch.torchscript",
        "mini_vgg.torchscript",
        "mini_resnet_d.dynamo",
        "mini_googlenet.dynamo",
    ),
    *("multi_head.dynamo", "two_outputs.torchscript", "side.dynamo", "rectangular.dynamo", "conv1d.torchscript"),
    *("conv3d.dynamo", "se_net.dynamo", "unet.torchscript", "mean_tokens.torchscript", "kept_sums.dynamo"),
    *("keras_gap.export", "keras_flatten.tf2onnx", "lenet.qoperator", "mini_vgg.qdq", "uint8_nhwc.dynamo"),
]
LESS = "the metadata says less than the original's graph shows: "


def carrying(model: onnx.ModelProto, claim: Claim) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    told = {item.key: item.value for item in copy.metadata_props} | claim.to_metadata()
    onnx.helper.set_model_props(copy, told)
    return copy


@pytest.mark.sweep(8)
@pytest.mark.parametrize("options", [{}, {"output": "mean"}, {"global_pool": "keep"}, {"global_pool": "drop"}])
def test_a_rewrite_says_all(options: dict[str, str]) -> None:
    said = 0
    for name in NETS:
        try:
            done = rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(**options), prove=False)  # type: ignore[arg-type]
        except OnnxfcError:
            continue
        own = [claim for _, claim in own_rewrites(done.original, done.claim)]
        assert not own or (said_less(own[0], done.claim), false_field(own[0], done.claim, ((), ()))) == ("", ""), name
        said += bool(own)
    assert said > 5


Change = Callable[[Claim], Claim]
WEAKER: dict[str, tuple[str, Change]] = {
    "verdict": (
        "verdict approximate, which is exact",
        lambda claim: replace(claim, verdict="approximate", blame=("padding: relu",)),
    ),
    "size step": ("size_step 2x2, which is 1x1", lambda claim: replace(claim, size_step=(2, 2))),
    "period": ("period 8x8, which is 4x4", lambda claim: replace(claim, period=(8, 8))),
    "unknown": (
        "period unknown, which is 4x4, no slack, no smallest_size, no halo",
        lambda claim: replace(claim, period=(), slack=(), smallest_size=(), halo=()),
    ),
    "layers": ("1 of 2 FC layers", lambda claim: replace(claim, layers=claim.layers[:1])),
}


@pytest.mark.sweep(8)
@pytest.mark.parametrize("what", WEAKER)
def test_less_is_told_and_passes(what: str) -> None:
    model = onnx.load(fixture_file("lenet.dynamo.onnx"))
    made = rewrite(model, prove=False)
    told, change = WEAKER[what]
    done = check_pair(model, carrying(complete(made), change(made.claim)), options=CHECK)
    assert done.passed
    assert done.notes == (LESS + told,)
    assert check_pair(model, complete(made), options=CHECK).notes == ()


def test_blame_that_is_left_out() -> None:
    model = onnx.load(fixture_file("mini_resnet.dynamo.onnx"))
    made = rewrite(model, prove=False)
    done = check_pair(model, carrying(complete(made), replace(made.claim, blame=())), options=CHECK)
    assert done.passed
    assert done.notes == (f"{LESS}other blame than padding: node_Conv_109 and 5 more",)


def test_a_cell_that_reads_more_than_it_says() -> None:
    model = onnx.load(fixture_file("lenet.dynamo.onnx"))
    made = rewrite(model, prove=False)
    outputs = tuple(replace(output, size=(26, 26)) for output in made.claim.outputs)
    wrong = replace(made.claim, size=(26, 26), outputs=outputs)
    done = check_pair(model, carrying(complete(made), wrong), options=CHECK)
    assert not done.passed
    told = "wrong claim: a cell reads 26x26 px from 0x0 on, the graph gives 28x28 from 0x0 on"
    assert done.parity.native.reason == told


LENET_INNER = next(
    node.output[0]
    for node in onnx.load(fixture_file("lenet.torchscript.onnx")).graph.node
    if node.op_type in ("Gemm", "MatMul")
)
LIMITED = {
    "one axis": ("columns_mean.torchscript", RewriteOptions(free=("width",))),
    "inner output": ("lenet.torchscript", RewriteOptions(output_at=(LENET_INNER,))),
}


@pytest.mark.parametrize("what", LIMITED)
def test_models_of_one_axis_or_of_inner_outputs(what: str) -> None:
    """Their metadata are held against the original's graph too."""
    name, options = LIMITED[what]
    model = onnx.load(fixture_file(f"{name}.onnx"))
    made = rewrite(model, options=options, prove=False)
    assert check_pair(model, complete(made), options=CHECK).notes == ()
    less = check_pair(model, carrying(complete(made), replace(made.claim, halo=())), options=CHECK)
    assert less.passed
    assert less.notes == (f"{LESS}no halo",)
    short = tuple(length - 1 for length in made.claim.size)
    outputs = tuple(replace(output, size=short) for output in made.claim.outputs)
    false = replace(made.claim, size=short, outputs=outputs, halo=())
    wrong = check_pair(model, carrying(complete(made), false), options=CHECK)
    assert not wrong.passed
    assert wrong.parity.native.reason.startswith("wrong claim: a cell reads ")


def told(claim: Claim, **changes: object) -> Claim:
    """The claim with something else told of its first output."""
    return replace(claim, outputs=(replace(claim.outputs[0], **changes), *claim.outputs[1:]))  # type: ignore[arg-type]


def other_level(claim: Claim) -> Claim:
    first, *levels = claim.outputs[0].levels
    return told(claim, levels=(first, replace(levels[0], stride=(1, 4)), *levels[1:]))


WRONG: dict[str, tuple[str, Change, str]] = {
    "stride of features": ("grid_coordinates", lambda claim: replace(claim, stride=(3, 2)), "the stride is (3, 2)"),
    "elements of features": ("super_resolution", lambda claim: told(claim, per=(1, 2)), "wrong claim: "),
    "period of a list": ("list_columns", lambda claim: replace(claim, period=(3, 4)), "moved by the period (3, 4)"),
    "period with context": ("se_net", lambda claim: replace(claim, period=(4, 6)), "moved by the period (4, 6)"),
    "shorter period": ("non_local", lambda claim: replace(claim, period=(2, 4)), "period is (2, 4), a rewrite"),
    "level of a list": ("grid_distances", other_level, "list does not grow by the elements"),
    "exact features": (
        "extremes",
        lambda claim: replace(claim, verdict="exact"),
        "verdict is exact, a rewrite of the original has approximate",
    ),
    "features that are a map": ("lenet", lambda claim: told(claim, form="features"), "scores claims spatial axes"),
    "grid": (
        "list_columns",
        lambda claim: replace(claim, grids=(replace(claim.grids[0], original="view_4"), *claim.grids[1:])),
        "grids[0].original is view_4, a rewrite of the original has view_2",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_number_fails(what: str) -> None:
    """Also of features, lists and models with context, which cannot be moved or run on crops."""
    name, change, reason = WRONG[what]
    model = onnx.load(fixture_file(f"{name}.dynamo.onnx"))
    made = rewrite(model, prove=False)
    done = check_pair(model, carrying(complete(made), change(made.claim)), options=CHECK)
    assert not done.passed
    assert reason in done.parity.summary()


def test_forms_of_fc_layers() -> None:
    model = onnx.load(fixture_file("mean_tokens.torchscript.onnx"))
    made = rewrite(model, options=RewriteOptions(global_pool="keep"), prove=False)
    (layer,) = made.claim.layers
    assert layer.form == "global"
    done = check_pair(model, carrying(complete(made), replace(made.claim, layers=(replace(layer, form="map"),))))
    assert not done.passed
    assert done.parity.native.reason == (
        f"wrong claim: FC layer {layer.original} is map, a rewrite of the original has global"
    )


@pytest.mark.sweep(12)
@pytest.mark.parametrize("part", ["original", "rewritten"])
@pytest.mark.parametrize("name", ["lenet.dynamo", "multi_head.dynamo", "mini_vgg.torchscript"])
def test_fc_layers_that_are_nowhere(name: str, part: str) -> None:
    """The result of an FC layer is found in no tensor of a wrong name: it was left out without a word."""
    path = fixture_file(f"{name}.onnx")
    done = rewrite(path, prove=False)
    for number, layer in enumerate(done.claim.layers):
        layers = list(done.claim.layers)
        layers[number] = replace(layer, **{part: "nowhere"})
        parity = check_pair(
            path, carrying(complete(done), replace(done.claim, layers=tuple(layers))), options=CHECK
        ).parity
        told = layers[number]
        so, advice = layer.rewritten if part == "rewritten" else "nothing", ""
        if part == "original":
            advice = (
                "; the first model has no nowhere: if it was changed since, remove the second one's onnxfc.* metadata"
            )
            advice += " (the claim is read off the models then)"
        assert not parity.passed
        assert parity.native.reason == (
            f"wrong claim: FC layer {told.original} is made in {told.rewritten}, "
            f"a rewrite of the original has it in {so}{advice}"
        )
    assert done.claim.layers


def test_numbers_that_are_not_shown_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the options of the rewrite cannot be told from what it claims."""
    monkeypatch.setattr(api, "own_rewrites", lambda original, claim: [])
    model = onnx.load(fixture_file("row_head.dynamo.onnx"))
    done = check_pair(model, complete(rewrite(model, prove=False)), options=CHECK)
    assert done.passed
    assert [note.partition(":")[0] for note in done.notes] == ["not shown"]


def test_a_pool_that_was_kept_is_told() -> None:
    """Though no output shows it."""
    model = onnx.load(fixture_file("row_head.dynamo.onnx"))
    made = rewrite(model, options=RewriteOptions(global_pool="keep"), prove=False)
    assert check_pair(model, complete(made), options=CHECK).notes == ()
