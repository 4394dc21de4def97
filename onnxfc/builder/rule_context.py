"""What a rule sees: one node, the views of its inputs, and the means to write nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxfc.builder.state import Frozen, Note, Replacement, Role, State
from onnxfc.claim.blame import Blame, Cause
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes, copied, label
from onnxfc.graph.op_kinds import ADDING_AXES, RESHAPING, axes_along, axis_of, default_axis
from onnxfc.layout.axes import carried, groups_of, lengths, of_length
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, Lifted, Placed, Refused, ScoreMap, View, Window
from onnxfc.shapes.spec import Array, Shape, Spec

LEAVE = "leave this model at its native size"
OWN_BATCH = "leave out --dynamic-batch"
NO_VALUES = (
    "only its author has values for other sizes; run the original on crops, or, where the network computes them,"
)
ATTENTION = "relates the places of the image to each other (attention): it was trained for the native size"

Outcome = list[View] | Refusal


class RuleContext:
    """One node under the hand of its rule."""

    def __init__(self, state: State, node: onnx.NodeProto) -> None:
        self.state = state
        self.node = node
        self.builder = state.builder
        self.views: tuple[View | None, ...] = tuple(state.views[name] if name else None for name in node.input)
        batches = [view.batch_axis for view in self.views if isinstance(view, Window | ScoreMap)]
        batches += [0 for view in self.views if isinstance(view, Placed) and view.apart]
        # Broadcast against features that have their batch, those that lost it have it again.
        self.swallowed = None in batches and all(axis is None for axis in batches)
        self.attrs: Mapping[str, Any] = _behind_batch(node) if self.swallowed else attributes(node)
        self.label = label(node)
        self.notes: list[Note] = []

    def freeze_sizes(self) -> None:
        """Within a window a value that was computed from the image's size means the native size."""
        views = list(self.views)
        for position, view in enumerate(views):
            if isinstance(view, Fixed) and self.follows_size(position):
                native = self.native(self.node.input[position]).values
                if native is not None:
                    views[position] = Fixed(self.builder.constant(native[0], "native"))
        self.views = tuple(views)

    def freeze(self, position: int) -> None:
        """Give an input the value that it has at the native size."""
        native = self.constant(position)
        assert native is not None
        frozen = Fixed(self.builder.constant(native, "native"))
        self.views = (*self.views[:position], frozen, *self.views[position + 1 :])
        self.notes.append(Frozen(self.label, self.name))

    def same_on_grid(self, position: int) -> bool:
        """Whether an input's value is known and the same at every image size of the stride grid."""
        view = self.views[position]
        values = self.builder.spec(view.tensor).values if isinstance(view, Fixed) else None
        return values is not None and all(np.array_equal(value, values[0]) for value in values[: self.builder.probes])

    def follows_size(self, position: int) -> bool:
        """Whether an input is a value that was computed from the image's size."""
        view = self.views[position] if position < len(self.views) else None
        if not isinstance(view, Fixed):
            return False
        spec = self.builder.spec(view.tensor)
        return spec.values is not None and spec.constant is None and not self.follows_batch(spec.values)

    def follows_batch(self, values: Sequence[Array]) -> bool:
        """Whether a computed value is as large as the batch is, or the same: the image's size has no part in it."""
        batches = self.state.batches
        if len(set(batches)) == 1 or len(values) != len(batches):
            return False
        if any(value.shape != values[0].shape or value.dtype.kind not in "biuf" for value in values):  # or strings
            return False
        pairs = list(zip(values, batches, strict=True))
        return all(bool(np.all((v == values[0]) | (v * batches[0] == values[0] * b))) for v, b in pairs)

    # What the original is

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def opset(self) -> int:
        return self.state.graph.opset

    def native(self, name: str) -> Spec:
        """The original's tensor at the native size."""
        return self.state.native[name]

    def shape_in(self, position: int = 0) -> Shape:
        """Native shape, with its batch where the original swallowed one."""
        view, shape = self.views[position], self.native(self.node.input[position]).native
        swallowed = isinstance(view, Window | ScoreMap) and view.batch_axis is None
        return (1, *shape) if swallowed else shape

    def shape_out(self, position: int = 0) -> Shape:
        """Native shape, with its batch where the original swallowed one."""
        shape = self.native(self.node.output[position]).native
        return shape if self.batch_axis_out(position) == 0 else (1, *shape)

    def batch_axis_out(self, position: int = 0) -> int | None:
        """0, or None where the output is still without the batch that was swallowed before."""
        shape = self.native(self.node.output[position]).native
        restored = self.op_type in ADDING_AXES and shape[:1] == (1,)
        return None if self.swallowed and not restored else 0

    @property
    def free_batch(self) -> bool:
        """Whether the batch may be any."""
        return len(set(self.state.batches)) > 1

    @property
    def may_swallow(self) -> bool:
        """Whether the batch is 1 for good, so that its axis may come and go."""
        return self.state.single

    def has_input(self, position: int) -> bool:
        return position < len(self.node.input) and bool(self.node.input[position])

    def constant(self, position: int) -> Array | None:
        """A small input whose value is known at the native size; None where it is absent or unknown."""
        if not self.has_input(position):
            return None
        values = self.native(self.node.input[position]).values
        return None if values is None else values[0]

    def weights(self, name: str) -> Array | None:
        """The value of a Fixed tensor that is an initializer of the original (not overridable) or a known constant."""
        graph = self.state.graph
        if name in graph.overridable or any(
            self.node.input[position] == name and self.follows_size(position) for position in range(len(self.views))
        ):
            return None
        tensor, producer = graph.constant(name), graph.producers.get(name)
        if tensor is None and producer is not None and producer.op_type == "DequantizeLinear":
            return _dequantised(producer, [self.weights(item) for item in producer.input if item])
        return self.native(name).constant if tensor is None else self.builder.model.array(tensor)

    def output_used(self, position: int) -> bool:
        return (
            position < len(self.node.output)
            and bool(self.node.output[position])
            and self.state.graph.uses[self.node.output[position]] > 0
        )

    def axis(self, position: int = 0) -> int:
        """The axis that the node works along, counted from the first."""
        return axis_of(self.op_type, self.attrs, len(self.shape_in(position)), self.opset)

    def axes_along(self) -> range:
        """The axes that the node takes together: those of a Softmax."""
        return axes_along(self.op_type, self.attrs, len(self.shape_in()), self.opset)

    # What the rule writes

    def tensors(self) -> list[str]:
        """The node's inputs in the new graph; only for views that are one tensor."""
        return ["" if view is None else tensor_of(view) for view in self.views]

    def tensors_from(self, first: int) -> list[str]:
        """As :meth:`tensors`, for the inputs from ``first`` on."""
        return ["" if view is None else tensor_of(view) for view in self.views[first:]]

    def keep(self, inputs: Sequence[str] | None = None, **changes: Any) -> None:
        """Write the original node, as it is unless inputs or attributes change."""
        self.builder.keep(self.node, self.tensors() if inputs is None else inputs, changes)

    def keep_renamed(self, inputs: Sequence[str], **changes: Any) -> list[str]:
        """Write the original node with new names for its outputs, which are returned."""
        kind = self.op_type.lower()
        named = [self.builder.fresh(f"{name}_{kind}") if name else "" for name in self.node.output]
        copy = copied(self.node, output=named)
        copy.name = self.builder.node_name(self.node.name, f"{self.node.name or self.op_type}_again")
        self.builder.keep(copy, inputs, changes)
        return named

    def try_keep(self, wanted: Sequence[Shape]) -> bool:
        """Write the original node if its output then has these shapes at the probes; else write nothing."""
        return self.builder.try_keep(self.node, self.tensors(), wanted)

    def evaluate(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        """What the original node makes of these inputs; those that are None keep their native values."""
        if self.op_type in RESHAPING and inputs and inputs[0] is not None:
            return [np.reshape(inputs[0], self.native(self.node.output[0]).native)]
        values = []
        for position, name in enumerate(self.node.input):
            given = inputs[position] if position < len(inputs) else None
            values.append(given if given is not None else self.constant(position) if name else None)
        return self.builder.inference.run(self.node, values)

    @property
    def only_first(self) -> bool:
        """Whether all inputs but the first are constants, or absent."""
        return all(view is None or isinstance(view, Fixed) for view in self.views[1:])

    def placed_in(self, position: int = 0) -> Placed:
        """An input that is known to be a placed tensor."""
        view = self.views[position]
        assert isinstance(view, Placed)
        return view

    def map_of(self, name: str, provenance: Provenance, spatial: Sequence[int], tensor: str = "") -> Placed:
        """The tensor ``name`` of the original as a map, its places on the axes ``spatial``."""
        return Placed(tensor or name, name, groups_of(self.native(name).native, dict(enumerate(spatial))), provenance)

    def placed(self, view: Placed, provenance: Provenance, where: Mapping[int, int]) -> list[View]:
        """The node's outputs as tensors that have the places of ``view``, each alone on its axis."""
        made: list[View] = []
        for name in self.node.output:
            groups = carried(view.groups, groups_of(self.native(name).native, where))
            if view.apart and lengths(view.groups[:1]) == lengths(groups[:1]):
                groups = (view.groups[0], *groups[1:])
            measured = None if len(where) == len(provenance.fields) else view.measured
            made.append(Placed(name, name, groups, provenance, measured))
        return made

    def same(self, provenance: Provenance | None = None, blamed: bool = False) -> list[View]:
        """The node's outputs, which lie as its first placed input does."""
        view = next(view for view in self.views if isinstance(view, Placed))
        provenance = provenance or view.provenance
        provenance = provenance.blamed(self.blame(Cause.CONTEXT)) if blamed else provenance
        return [view.output(name, provenance=provenance) for name in self.node.output]

    def of_channels(self, view: Placed, axis: int, provenance: Provenance | None = None) -> list[View]:
        """The node's outputs, which lie as ``view`` does, with other channels, or images of one, on one axis."""
        made: list[View] = []
        for position, name in enumerate(self.node.output):
            own = of_length(view.groups[axis], self.shape_out(position)[axis])
            groups = (*view.groups[:axis], own, *view.groups[axis + 1 :])
            made.append(view.output(name, groups=groups, provenance=provenance or view.provenance))
        return made

    def fixed(self) -> list[View]:
        """The node's outputs, which do not depend on the image's values: a constant where not on its size either.

        A runtime cannot see that of a number of channels, say, that is read off the shape of a free map.
        """
        made: list[View] = []
        for name in self.node.output:
            value = self.builder.specs[name].constant if name in self.builder.specs else None
            by_size = any(isinstance(view, Lifted) or self.follows_size(k) for k, view in enumerate(self.views))
            tensor = self.builder.constant(value, name) if value is not None and by_size else name
            made.append(Fixed(tensor))
        return made

    def score_maps(self, provenance: Provenance) -> list[View]:
        """The node's outputs as score maps over the tensors of the same names."""
        return [
            ScoreMap(name, self.shape_out(k)[1:], provenance, self.batch_axis_out(k)) if name else Fixed("")
            for k, name in enumerate(self.node.output)
        ]

    def replaced(self, before: str, after: str) -> None:
        """Put a line into the report."""
        self.notes.append(Replacement(self.label, before, after))

    def remark(self, code: str, reason: str) -> None:
        """Note what the user should know of."""
        self.notes.append(Refusal(code, self.label, reason))

    @property
    def name(self) -> str:
        """The node's first output, by which it is told from others."""
        return str(next(name for name in self.node.output if name))

    @property
    def in_integers(self) -> bool:
        """Whether it stands for a product of integers."""
        return self.name in self.state.quantised.products

    @property
    def in_blocks(self) -> bool:
        """Whether its weight stands for blocks of integers, and is to stay so."""
        known = self.state.quantised
        return not known.in_floats and any(name in known.blocks for name in self.node.input)

    @property
    def role(self) -> Role:
        """What the node is, if it looks at places."""
        return self.state.roles.of.get(self.name, "head")

    @property
    def per_window(self) -> bool:
        """Whether what looks at places here is each window's own."""
        return self.state.roles.of.get(self.name) == "head" and self.name not in self.state.roles.whole

    @property
    def covers(self) -> list[int]:
        """The axes that a pool's one window covers natively, where it is none of the trunk like any other."""
        return [] if self.role == "local" else list(self.state.roles.covers.get(self.name, ()))

    @property
    def own(self) -> bool:
        """Whether a window meets its own places here."""
        return self.name in self.state.roles.own

    def rejoins(self) -> Refusal:
        """What was made of windows meets a map of the trunk."""
        return self.refuse("head-rejoins-trunk", "feeds a result of windows back into the trunk")

    def weighs_image(self, view: Placed) -> bool:
        """Whether it holds parts of a sum over all places of the image: they shrink as that grows."""
        return any(place >= 0 for _, place in view.provenance.sums_to_one)

    def weighed_over_image(self) -> Refusal:
        """A window would read what was weighed over all places of the image."""
        return self.refuse("softmax-over-space", "reads in a window what was weighed over all places of the image")

    @property
    def without_values(self) -> str:
        """What can be done about a table that has none for other sizes; an export of open size may hold one, too."""
        opened = "let it do so when the model runs" if self.state.open_size else "export it with open height and width"
        return f"{NO_VALUES} {opened}"

    def no_values(self, reason: str, advice: str | None = None) -> Refusal:
        """A table has a value for every native place and none for others; nor has an input that stays as it is."""
        images = {info.name: isinstance(self.state.views[info.name], Placed) for info in self.state.graph.inputs}
        stays = next((name for name in self.node.input if images.get(name) is False), None)
        if stays is None:
            return self.refuse("position-table", reason, self.without_values if advice is None else advice)
        named = " ".join(f"--input {name}" for name in [*(name for name, image in images.items() if image), stays])
        why = f"combines the map with {stays}, an input that stays at its native size"
        return self.refuse("sizes-differ", why, f"name it too: {named}")

    def refuse(self, code: str, reason: str, advice: str = "") -> Refusal:
        if self.state.global_pool == "window":
            advice = advice.replace("use --global-pool window", "")
        if advice == OWN_BATCH and self.state.open_batch:
            advice = "export it with a batch of 1"
        return Refusal(code, self.label, f"{self.op_type} {reason}", advice)

    def blame(self, cause: Cause) -> Blame:
        return Blame(cause, self.label)


def _behind_batch(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as if the swallowed batch were there: axes counted from the first are one more."""
    found = dict(attributes(node))
    if default_axis(node.op_type, 13) == 0:
        found.setdefault("axis", 0)
    if "axis" in found:
        found["axis"] += found["axis"] >= 0
    if "axes" in found:
        found["axes"] = [axis + (axis >= 0) for axis in found["axes"]]
    if "perm" in found:
        found["perm"] = [0, *(axis + 1 for axis in found["perm"])]
    return found


def _dequantised(node: onnx.NodeProto, given: Sequence[Array | None]) -> Array | None:
    """(x - zero point) * scale, each of one number or one for each place along an axis."""
    if any(value is None for value in given):
        return None
    value, scale, *zero = (np.asarray(item) for item in given)
    told, along = attributes(node), [1] * value.ndim
    if scale.ndim > 1 or told.get("block_size", 0) or any(item.size != scale.size for item in zero):
        return None
    if scale.size > 1:
        axis = told.get("axis", 1)
        if not -value.ndim <= axis < value.ndim or value.shape[axis] != scale.size:
            return None
        along[axis] = scale.size
    moved = value.astype(np.int64) - (zero[0].astype(np.int64).reshape(along) if zero else 0)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(moved.astype(scale.dtype) * scale.reshape(along))


def tensor_of(view: View) -> str:
    """The one tensor that represents a view."""
    if isinstance(view, Window | Refused):
        raise TypeError(f"{type(view).__name__} is not one tensor")
    return view.tensor


def positive(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def axes_of(ctx: RuleContext, position: int, rank: int) -> list[int] | None:
    """The ``axes`` of Reduce, Squeeze, Unsqueeze ...: attribute, or input ``position``; None where absent."""
    axes = ctx.attrs.get("axes")
    if axes is None and ctx.has_input(position):
        value = ctx.constant(position)
        if value is None:
            return None
        axes = [axis + (axis >= 0 and ctx.swallowed) for axis in np.atleast_1d(value).tolist()]
    return None if axes is None else [positive(int(axis), rank) for axis in axes]
