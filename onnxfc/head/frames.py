"""Frames of an image, which are rows of the batch, as features of its windows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import RuleContext
from onnxfc.layout.views import ScoreMap, View, Window
from onnxfc.shapes.spec import Shape


def frames_apart(ctx: RuleContext, view: Window) -> Window | None:
    """What a Reshape of (N * T, C, h, w) to (N, T, F) makes of the window; None where it does something else, and where
    frames are the images of a free batch."""
    rows, (first, *features) = ctx.shape_in()[0], ctx.shape_out()
    if ctx.free_batch and first != ctx.state.batches[0]:
        return None
    frames = features[0] if len(features) > 1 else 1
    if view.batch_axis != 0 or frames < 2 or first * frames != rows or math.prod(features[1:]) != view.index.size:
        return None
    return _beside(ctx, view, tuple(features))


def as_features(ctx: RuleContext, view: View, shape: Shape) -> View:
    """Features of one image's frames, whose native shape in the original is ``shape``, without any batch."""
    if not isinstance(view, Window | ScoreMap) or view.batch_axis is None:
        return view
    if isinstance(view, Window):
        if view.batch_axis or view.scale is not None or view.shift is not None:
            return view
        return replace(_beside(ctx, view, shape), batch_axis=None)
    return scores_apart(ctx, view, shape)


def scores_apart(ctx: RuleContext, view: ScoreMap, shape: Shape) -> ScoreMap:
    """As :func:`as_features`, of scores."""
    at, rank = view.batch_axis or 0, len(shape)
    behind = range(rank, rank + len(view.grid))
    tensor = ops.transpose(ctx.builder, view.tensor, [*range(1, at + 1), 0, *range(at + 1, rank), *behind])
    return ScoreMap(ops.unsqueeze(ctx.builder, tensor, [0]), shape, view.provenance, None)


def _beside(ctx: RuleContext, view: Window, features: Shape) -> Window:
    """The frames as the first axis of the features: they are channels of the sources."""
    frames, of_row, start = features[0], view.index.ravel(), 0
    index, sources = np.empty((frames, of_row.size), np.int64), []
    for source in view.sources:
        sizes = ops.dims(ctx.builder, source.tensor, 2, 2 + len(source.extent))
        tensor = ops.reshape(ctx.builder, source.tensor, [-1, frames * source.channels, sizes])
        sources.append(replace(source, tensor=tensor, channels=frames * source.channels))
        own = (of_row >= start) & (of_row < start + source.features)
        places = np.arange(frames)[:, None] * source.features
        index[:, own] = frames * start + places + of_row[own] - start
        start += source.features
    return replace(view, sources=tuple(sources), index=index.reshape(features), trunk=None)
