"""What rewrite offers next is what scan takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_files import fixture_file

from onnxfc import RewriteOptions, UsageError, rewrite, scan
from onnxfc.reports.rewrite import written


@pytest.mark.parametrize(
    ("name", "how", "reason"),
    [
        ("lenet.dynamo", {}, ""),
        ("frames_apart.dynamo", {}, ""),
        ("lenet.dynamo", {"free": ("height",)}, "any height only"),
        ("lenet.dynamo", {"fixed_size": (40, 40)}, "images of 40x40 px alone"),
        ("mini_resnet.dynamo", {"global_pool": "keep"}, "no map of scores"),
        ("siamese.dynamo", {}, "several image inputs"),
        ("side.dynamo", {}, "inputs besides the image (numbers)"),
        ("list_places.dynamo", {}, "lists of places"),
        ("ecg.dynamo", {}, "1-dimensional input"),
        ("conv3d.dynamo", {}, "3-dimensional input"),
    ],
)
def test_scan_is_offered_where_it_works(name: str, how: dict[str, Any], reason: str, tmp_path: Path) -> None:
    done = rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(**how), prove=False)
    target = tmp_path / "any.onnx"
    target.write_bytes(done.file.loaded().SerializeToString())
    offered = any("onnxfc scan" in line for line in written(target, target, done))
    assert offered == (not reason)
    image = np.random.default_rng(0).random((50, 50, 12 if "frames" in name else 1), np.float32)
    if reason:
        with pytest.raises(UsageError, match=reason.replace("(", r"\(").replace(")", r"\)")):
            scan(target, image)
    else:
        assert np.isfinite(scan(target, image)).all()
