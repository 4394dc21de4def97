"""From the rewritten model to the form of it that was asked for, and what the file says of how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from onnxfc.builder.state import Replacement
from onnxfc.claim.claim import PREFIX, Claim, Output
from onnxfc.errors import ReadError, UsageError
from onnxfc.forms.as_maps import as_maps
from onnxfc.forms.draft import Draft, finished
from onnxfc.forms.explicit_windows import explicit_windows
from onnxfc.forms.one_size import at_one_size
from onnxfc.forms.own_shape import in_own_shape, of_one_cell
from onnxfc.forms.profile import Fit, Profile
from onnxfc.forms.split_kernels import split_kernels
from onnxfc.forms.split_pools import split_pools
from onnxfc.forms.weight_order import KEY, WeightOrder, order_of, written
from onnxfc.geometry import Geometry
from onnxfc.graph.index import refill
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.shapes.image_inputs import must_be_run

_OPTIONS = f"{PREFIX}options"


@dataclass(frozen=True)
class Formed:
    """A form of the rewritten model, its claim, what was split, and what of it fits an accelerator."""

    file: ModelFile
    claim: Claim
    split: tuple[Replacement, ...]
    fit: Fit | None


def formed(model: ModelFile, claim: Claim, geometry: Geometry, options: RewriteOptions, original: ModelFile) -> Formed:
    """The rewritten ``model`` in the form that ``options`` ask for.

    Raises UsageError where the model does not take images of this size, or nothing does.
    """
    profile = None if options.profile is None else Profile.of(options.profile)
    size = options.fixed_size or claim.native_size
    if 0 in geometry.cells(*size):
        wanted, smallest = ("x".join(map(str, lengths)) for lengths in (size, geometry.smallest_size))
        raise UsageError(f"--fixed-size {wanted}: is too small for this model, its smallest image has {smallest} px")
    for name, shape in claim.image_shapes(size).items():
        must_be_run(name, shape, "give a smaller --fixed-size")
    draft, outputs = at_one_size(model, claim, size, options.dynamic_batch), claim.outputs
    if options.form == "conv4d":
        draft = explicit_windows(as_maps(draft, original.proto.graph))
    if options.max_kernel is not None:
        draft = split_kernels(draft, options.max_kernel)
    if options.max_pool is not None:
        draft = split_pools(draft, options.max_pool)
    if options.keep_output_shape:
        draft, outputs = _in_own_shape(draft, claim)
    claim = replace(claim, fixed_size=size, outputs=outputs)
    proto = finished(draft)
    told = {item.key: item.value for item in proto.metadata_props} | claim.to_metadata() | as_metadata(options)
    if options.form is not None and (orders := _orders(original, model.with_proto(proto))):
        told[KEY] = written(orders)
    refill(proto, metadata_props=[onnx.StringStringEntryProto(key=key, value=value) for key, value in told.items()])
    fit = None if profile is None else profile.fit(draft, _written_as(options, size))
    return Formed(model.with_proto(proto), claim, tuple(Replacement(*told) for told in draft.done), fit)


def _written_as(options: RewriteOptions, size: Sequence[int]) -> str:
    told = f"--fixed-size {'x'.join(map(str, size))}"
    return told if options.form is None else f"--form {options.form} {told}"


def _in_own_shape(draft: Draft, claim: Claim) -> tuple[Draft, tuple[Output, ...]]:
    """The draft, and its outputs: all of one cell, in the shape that the original has. Raises UsageError."""
    for item in claim.outputs:
        shape = draft.specs[item.name].native
        if item.form in ("map", "activation") and not of_one_cell(draft, item):
            cells = "x".join(str(shape[axis]) for axis in item.axes)
            raise UsageError(
                f"keep output shape: output {item.name} has {cells} cells, which have no room in one vector"
            )
    maps = [item for item in claim.outputs if item.form == "map"]
    return in_own_shape(draft, maps), tuple(Output(o.name, "global") if o in maps else o for o in claim.outputs)


def _orders(original: ModelFile, model: ModelFile) -> dict[str, WeightOrder]:
    """How FC weights lay in the original, where it was otherwise than their Convs' weights, by the name of both."""
    stored = {tensor.name: tensor for tensor in original.proto.graph.initializer if len(tensor.dims) == 2}
    found = {}
    for tensor in model.proto.graph.initializer:
        if tensor.name in stored and len(tensor.dims) > 2:
            order = order_of(original.array(stored[tensor.name]), model.array(tensor))
            if order is not None and order.perm != tuple(range(len(tensor.dims))):
                found[tensor.name] = order
    return found


def as_metadata(options: RewriteOptions) -> dict[str, str]:
    """The options, so that what a form was made of can be made again."""
    return {_OPTIONS: json.dumps(asdict(replace(options, profile=None)))}


def options_of(metadata: Mapping[str, str]) -> RewriteOptions:
    """Read them back. Raises ReadError where they are damaged."""
    try:
        told = json.loads(metadata[_OPTIONS])
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        return RewriteOptions(**given)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise ReadError(f"the model's {_OPTIONS} metadata is damaged: {error}; rewrite the original again") from error
