"""Which rewritten models `onnxfc scan` takes, as far as claim and graph say."""

from __future__ import annotations

import onnx

from onnxfc.claim.claim import Claim, Output

_MAPS = {"map", "cells", "activation", "features"}


def maps(claim: Claim) -> list[Output]:
    """Outputs that have cells, each in a place of its own."""
    return [item for item in claim.outputs if item.form in _MAPS and item.axes]


def against_scan(claim: Claim, graph: onnx.GraphProto) -> str | None:
    """Why a model cannot be run on the tiles of an image; None where it can."""
    images = [item.name for item in claim.inputs]
    weights = {item.name for item in graph.initializer}
    others = [info.name for info in graph.input if info.name not in weights.union(images)]
    if claim.inputs[0].fixed:
        return f"the model takes images of any {' and '.join(claim.inputs[0].free)} only; scan needs both"
    if len(claim.native_size) != 2:
        return f"the model takes {len(claim.native_size)}-dimensional input; scan is for images"
    if claim.fixed_size:
        told = "x".join(map(str, claim.fixed_size))
        return f"the model takes images of {told} px alone; scan with one for any size"
    if len(images) != 1:
        return f"the model has several image inputs ({', '.join(images)}); scan is for models with one"
    if others:
        return f"the model has inputs besides the image ({', '.join(others)}); make them constants first"
    if claim.detections:
        told = ", ".join(claim.detections)
        return (
            f"the model has outputs as long as the values say ({told}); rewrite it with --output-at a map before them"
        )
    lists = [item.name for item in claim.outputs if item.form == "list"]
    if lists and not maps(claim):
        return (
            f"the model has lists of places ({', '.join(lists)}), no map; rewrite it with --output-at a map before them"
        )
    if not maps(claim):
        return "the model has no map of scores; give the original, or rewrite it with --output map"
    return None
