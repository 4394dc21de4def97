"""From the rewritten model to the form of it that was asked for, and what the file says of how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import onnx

from onnxfc.claim.claim import PREFIX, Claim
from onnxfc.errors import ReadError, UsageError
from onnxfc.forms.as_maps import as_maps
from onnxfc.forms.draft import finished
from onnxfc.forms.explicit_windows import explicit_windows
from onnxfc.forms.one_size import at_one_size
from onnxfc.forms.own_shape import in_own_shape
from onnxfc.geometry import Geometry
from onnxfc.graph.index import refill
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.analyse import RewriteOptions

_OPTIONS = f"{PREFIX}options"


def formed(model: ModelFile, claim: Claim, geometry: Geometry, options: RewriteOptions) -> tuple[ModelFile, Claim]:
    """The rewritten ``model`` in the form that ``options`` ask for, and its claim; both as they are, if in none.

    Raises UsageError where the model does not take images of this size.
    """
    if options.fixed_size is None and options.form is None:
        return model, claim
    size = options.fixed_size or claim.native_size
    if 0 in geometry.cells(*size):
        wanted, smallest = ("x".join(map(str, lengths)) for lengths in (size, geometry.smallest_size))
        raise UsageError(f"fixed size {wanted}: the smallest image of this model is {smallest} px")
    draft, outputs = at_one_size(model, claim, size, options.dynamic_batch), claim.outputs
    if options.form == "conv4d":
        draft = explicit_windows(as_maps(draft))
    if options.keep_output_shape:
        draft, outputs = in_own_shape(draft, outputs)
    claim = replace(claim, fixed_size=size, outputs=outputs)
    proto = finished(draft)
    told = {**{item.key: item.value for item in proto.metadata_props}, **claim.to_metadata(), **as_metadata(options)}
    refill(proto, metadata_props=[onnx.StringStringEntryProto(key=key, value=value) for key, value in told.items()])
    return model.with_proto(proto), claim


def as_metadata(options: RewriteOptions) -> dict[str, str]:
    """The options, so that what a form was made of can be made again."""
    return {_OPTIONS: json.dumps(asdict(options))}


def options_of(metadata: Mapping[str, str]) -> RewriteOptions:
    """Read them back. Raises ReadError where they are damaged."""
    try:
        told = json.loads(metadata[_OPTIONS])
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        return RewriteOptions(**given)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise ReadError(f"the model's {_OPTIONS} metadata is damaged: {error}; rewrite the original again") from error
