"""Every exporter's fixture ends as its index entry says: proven, with the right geometry and the right verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from fixture_files import FIXTURES, fixture_file, fixture_models, must_run
from hazards import refusal

from onnxfc.claim.claim import SIZE_NAMES
from onnxfc.errors import NothingToRewrite, ProofFailed
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

ENTRIES = json.loads((FIXTURES / "index.json").read_text())["fixtures"]
INDEX = {Path(entry["file"]).name: entry for entry in ENTRIES}
REFUSED = sorted(name for name, entry in INDEX.items() if entry["refused"])
UNKNOWN = {"bfloat16.dynamo.onnx"}
"""What onnxruntime itself does not run cannot be proven."""
HEADLESS = sorted(name for name, entry in INDEX.items() if not entry["window"] and not entry["refused"])
"""Networks without an FC layer; tests/rewriter/test_trunk_exports.py has them."""
REWRITTEN = sorted(
    name for name, entry in INDEX.items() if (entry["given"] or not entry["refused"]) and name not in HEADLESS
)
PROVEN = [name for name in REWRITTEN if name not in UNKNOWN]
TOLERANCE = {"float32": (1e-4, 1e-5), "uint8": (1e-4, 1e-5), "float16": (2e-2, 1e-2)}
"""By the image's type: deviation of a result relative to the signal, of a cell from its crop to the score range."""
ONE_STEP = {
    "lenet.qdq.onnx": 2.03e-2,
    "lenet.qdq_int4.onnx": 2.71e-2,
    "lenet.qdq_own_int4.onnx": 2.71e-2,
    "lenet.qdq_float_scores.onnx": 1e-2,
    "lenet.qdq_own_int16.onnx": 1e-3,
    "lenet.qdq_int16.onnx": 1e-3,
    "lenet.qoperator_opset21.onnx": 2.03e-2,
    **dict.fromkeys(["frames_lstm.torchscript.onnx", "frames_lstm.dynamo.onnx"], 2e-4),  # steep gates
    "trained_int8.torchscript.onnx": 4.45e-2,  # of an inner layer: -10.499999 steps in a cell at 36x36 px
}
"""Quantised networks of which one value on the edge of a step falls to the other side: what that makes of a score."""

STAYS = {
    "lenet.qdq_float_scores": ["Gemm"],  # on a row for each cell, in integers
    "se_net.dynamic": [],  # of which both are MatMulInteger
    "se_net.qoperator": [],  # of which both are QGemm
    "se_net": ["Gemm", "Gemm"],  # squeeze-and-excitation
    "last_gate": ["Gemm", "Gemm"],
    "excited": ["Gemm", "Gemm"],
    "rows": ["Gemm", "Gemm", "MatMul"],  # over the channels of each place
    "token_head": ["MatMul"],
    "keras_dense_map": ["MatMul", "MatMul"],
    "convnext": ["MatMul", "MatMul"],  # over the channels of a channels-last map: 1x1 Convs already
    "swin_tail": ["MatMul"],
    "compared.dynamo": ["Gemm"],  # of the template
    "compared.torchscript": ["Flatten", "Gemm"],
    "side": ["Gemm"],  # of the numbers
    "audio": ["MatMul"],  # on (N, 1, 12), once per window
    "keras_shaped.tf2onnx": ["MatMul"],  # on (4 N, 3)
    "shaped": ["MatMul"],  # on (N, 6, 4)
    **{key: ["MatMul"] for key in ["context_vectors", "letters_attention"]},  # products of the image with itself
    **dict.fromkeys(["axial_attention", "context_norms", "lite_attention", "weighted_pools"], ["MatMul"] * 2),
    **dict.fromkeys(["joined_heads", "linear_attention", "window_attention"], ["MatMul"] * 3),
    "channel_attention": ["MatMul"] * 5,
    "open_moments": ["MatMul"],  # a product of the image with itself
    "mean_tokens": [*["MatMul"] * 3, "Gemm"],  # attention, and layers of each token
    "token_pools": ["MatMul"] * 4,
    "heads_attention": [*["MatMul"] * 3, "Gemm", *["MatMul"] * 3, "Gemm", *["MatMul"] * 2],
    "non_local": ["MatMul"] * 6,
    "groups.": [*["MatMul"] * 7, "Gemm"],
    "one_batch": ["MatMul"] * 2,
    "operator_attention": ["MatMul", "Gemm"],
    "frames_both": ["MatMul", "Gemm"],  # of each step
    "frames_encoder": ["MatMul", "MatMul", "Gemm", "MatMul", "MatMul"],
    "bag_attention": ["Gemm"],  # of what is weighed of all images
    "learned_queries_opset11": ["MatMul"] * 4,  # of tokens, of the answers
    "learned_queries": [*["MatMul"] * 3, "Gemm"],
    "kernel_of_image": ["Gemm", "MatMul"],  # of the kernels
    "mixer": ["MatMul"],  # on (N, 8, 9)
    **{f"context_{key}.torchscript": ["Flatten"] for key in ["kept_dims", "pooled"]},  # of the context
    "soft_argmax.dynamo": ["MatMul"],  # on (N, 4, 36), once per window
    "soft_argmax.torchscript": ["Flatten", "MatMul"],
}
"""FC layers that are none of the head's, or have more axes than one."""
ALONE = (
    "conditional.",
    "bag_",  # of images, made for one bag
    "convnext.dynamo",
    "depth_pooled",
    "frames_assigned",
    "frames_both",
    "frames_encoder",
    "frames_mean",
    "frames_shifted",
    "groups.",  # nn.MultiheadAttention, whose tokens have the batch as their second axis
    "keras_branches.tf2onnx",
    "kernel_of_image",
    "learned_queries.",
    "one_batch.",
    "stacked",  # ahead of the batch
    "swallowed",
    "swin_tail.dynamo",
    "unbatched",
)
"""Made for a batch of 1, which some Reshape takes away or folds features into."""


SEQUENCES = ("columns_mean", "columns_pooled", "logits_over_time")
"""Of which windows are made where all axes are named."""


def options(entry: dict[str, Any], **more: Any) -> RewriteOptions:
    size = tuple(entry["native_size"]) if set(entry["dynamic"]) - {"batch"} else None
    free = SIZE_NAMES[len(entry["native_size"])] if Path(entry["file"]).name.startswith(SEQUENCES) else ()
    return RewriteOptions(size=size, inputs=tuple(entry["given"]), free=free, **more)


def rewritten(file: str, **more: Any) -> Rewrite:
    """And proven."""
    must_run(file)
    return rewrite(fixture_file(file), options=options(INDEX[file], **more), check_options=CheckOptions(threads=1))


UNLISTED = (
    "kept_by_hand.",
    "kept_counts.",
    "kept_einsums.",
    "kept_expected.",
    "kept_of_rows.",
    "kept_of_means.",
    "kept_queries.",
    "kept_spread.",
    "kept_soft_argmax.",
    "kept_triangle.",
    "kept_open_sums.",
    "kept_rmac.",
    "kept_unbatched.",
    "kept_vlad",
    "list_and_bag.",
    "list_and_pooled.",
    "list_best.",
    "deformed",
    "rows_gru.",
    "patch_rows.",
    "patch_encoder",
    "grid_centroid.",
)
UNLISTED += ("bilinear_mean.", "bilinear_sum.", "grid_in_pixels.", "grid_two_rows.", "list_columns.", "list_unbatched.")
UNLISTED += ("kept_level_count.", "kept_lp_pooled.", "kept_row_deviation.", "kept_standard_error.", "kept_times_count.")
UNLISTED += ("detect", "list_widths.", "log_sum_exp.", "maxima", "raw_audio.", "whole_mean.", "whole_norm.")
UNLISTED += ("centred.", "few_parts", "grid_anchors.", "grid_coarse.", "grid_multiplied.", "whole_deviation.")
UNLISTED += ("list_decoded.", "list_one_level.", "list_rows.", "row_figures.")
UNLISTED += (
    "kept_exits.",
    "kept_grid.",
    "kept_grid_",
    "kept_open_parts.",
    "kept_open_written.",
    "kept_tile_batch.",
    "kept_tiles.",
    "kept_token_blocks.",
    "kept_mean_place.",
    "kept_windows.",
)
UNLISTED += (
    "filter_bank.",
    "kept_covering.",
    "kept_differences.",
    "kept_feature_sum.",
    "kept_open_feature_sum.",
    "kept_plain_means.",
    "kept_whole_layer_norm.",
    "list_standardised.",
    "pre_emphasis.",
)
UNLISTED += (
    "grid_flow",
    "pyramid_unlike.",
    "spectrogram.",
    "two_views.",
    "columns_moments.",
    "columns_error.",
    "columns_ends.",
    "list_levels_and_bag.",
    "unpooled",
    "warp_",
    "worked_halves",
    "sides_",
    "picked_",
    "axis_",
)
"""Files of which one option is tested alone."""


def test_every_file_is_listed() -> None:
    found = {path.relative_to(FIXTURES).as_posix() for path in fixture_models() if not path.name.startswith(UNLISTED)}
    assert found == {entry["file"] for entry in ENTRIES}
    assert len(INDEX) == len(ENTRIES)


@pytest.mark.sweep(40)
@pytest.mark.parametrize("file", PROVEN)
def test_proven(file: str) -> None:
    """And no FC layer is left in its head."""
    entry, result = INDEX[file], rewritten(file)
    parity = result.parity
    assert parity is not None
    assert parity.passed
    assert parity.native.status == parity.window.status == "passed"
    close, same = TOLERANCE[entry["dtype"]]
    assert parity.native.deviation < close
    assert parity.window.deviation < ONE_STEP.get(file, close)
    assert result.claim.native_size == tuple(entry["native_size"])
    exact = entry["pad_free"] and not entry["context"]
    assert result.claim.verdict == ("exact" if exact else "approximate")
    if exact:
        assert parity.crops.status == "measured"
        assert parity.crops.deviation < same
    else:
        assert result.claim.blame
    no_fc_layer_is_left(file, result)


@pytest.mark.parametrize("file", sorted(UNKNOWN))
def test_no_fc_layer_is_left_in_the_head(file: str) -> None:
    """Nor of those that are proven, above."""
    no_fc_layer_is_left(file, rewrite(fixture_file(file), options=options(INDEX[file]), prove=False))


def no_fc_layer_is_left(file: str, result: Rewrite) -> None:
    onnx.checker.check_model(result.model, full_check="optimised" not in file)
    left = [node.op_type for node in result.model.graph.node if node.op_type in {"Gemm", "MatMul", "Flatten"}]
    stays = next((found for name, found in STAYS.items() if file.startswith(name)), [])
    assert left == stays


@pytest.mark.parametrize("form", ["mean", "max"])
@pytest.mark.parametrize(
    "file", ["lenet.dynamo.onnx", "mini_squeezenet.torchscript.onnx", "keras_softmax.tf2onnx.onnx"]
)
def test_reduced_outputs_keep_the_original_shape(file: str, form: str) -> None:
    result = rewritten(file, output=form)
    original = onnx.load(fixture_file(file)).graph.output[0].type.tensor_type.shape
    now = result.model.graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in now.dim][1:] == [dim.dim_value for dim in original.dim][1:]


POOLED = ("over_one", "reductions", "swallowed.", "versions_")
"""Networks of many heads, some of them behind a global pool."""


@pytest.mark.sweep(40)
@pytest.mark.parametrize(
    "file",
    [name for name in REWRITTEN if INDEX[name]["head"].startswith(("global", "mean")) or name.startswith(POOLED)],
)
def test_global_pool_kept(file: str) -> None:
    result = rewritten(file, global_pool="keep")
    assert result.parity is not None
    assert result.parity.passed


@pytest.mark.sweep(40)
@pytest.mark.parametrize("file", PROVEN)
def test_dynamic_batch(file: str) -> None:
    if file.startswith(ALONE) or ".dynamic" in file:  # one scale for all images of a batch
        with pytest.raises(NothingToRewrite, match=r"batch-baked|mixes-batch"):
            rewritten(file, dynamic_batch=True)
        return
    result = rewritten(file, dynamic_batch=True)
    parity = result.parity
    assert parity is not None
    assert parity.passed
    assert not result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value


@pytest.mark.sweep(12)
@pytest.mark.parametrize("file", REFUSED)
def test_refused(file: str) -> None:
    """With nothing given on the command line; where one axis can be freed alone, all axes are named."""
    found = refusal(onnx.load(fixture_file(file)))
    assert found.code == INDEX[file]["refused"]


@pytest.mark.parametrize("file", sorted(UNKNOWN))
def test_what_does_not_run_is_not_proven(file: str) -> None:
    with pytest.raises(ProofFailed, match="the original does not run"):
        rewrite(fixture_file(file))
