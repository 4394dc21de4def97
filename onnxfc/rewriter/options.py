"""What a user may say of the result of a rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from onnxfc import errors
from onnxfc.builder.state import GlobalPool
from onnxfc.claim.claim import SIZE_NAMES
from onnxfc.errors import UsageError
from onnxfc.layout.affine import Grids
from onnxfc.rewriter.outputs import Form

Written = Literal["conv4d", "gemm"]
"""Forms for accelerators, in other operators than the rewritten model for any size."""

Grow = Literal["pixels", "scale"]
"""How images of several native sizes grow together: by as many pixels, or by as many times."""


@dataclass(frozen=True)
class RewriteOptions:
    """What the result should be like.

    ``size``: native size in pixels where the graph does not tell it, or ``input_shapes``: whole shapes by name,
    ``{"image": (1, 3, 224, 224)}``. ``inputs``: which inputs are images (all that look like one, if empty); one inner
    tensor may be named too, which then becomes the model's input. ``output``: ``map`` is one cell for each window,
    (N, K, gH, gW); ``mean`` and ``max`` are over all cells, in the original's shape (N, K).
    ``global_pool``: what becomes of a pool before the head: ``window`` pools each native window, ``keep`` the whole
    image, ``drop`` leaves a class activation map. ``dynamic_batch`` frees the batch. ``free``: only these axes of the
    image ("height", "width", a volume's "depth"), while the others stay; if empty, all that can be freed.
    ``output_at``: inner tensors at which the model is to end, instead of its outputs. ``grids``: how tables of
    coordinates go on that do not show it by themselves: ``step``, with the steps that they have; ``map``, spread over
    as many places as there are; ``image``, as pixels over the image's size, and so are the lengths beside them.
    ``grow``: how images of several native sizes grow together where the network does not show it: ``pixels``, by as
    many pixels; ``scale``, by as many times, as views of one scene.
    ``fixed_size``: the result takes images of this size alone, and declares every length as a number (but for a batch
    that ``dynamic_batch`` frees).
    ``form``: ``conv4d`` is for accelerators, at the fixed size or the native one: Conv in place of every FC layer, all
    tensors (1, C, H, W), every attribute of a Conv written; ``keep_output_shape`` puts the original's shape behind it.
    ``max_kernel``: there a larger kernel is written with smaller ones; ``max_pool``: a pool over more places as two.
    ``profile``: an accelerator, by name or a file of its limits, of which is told what fits. The form ``gemm`` is the
    way back, for a network whose head is made of Convs (a rewritten one too): Gemm in place of every Conv that covers
    its map at the native size, and nothing else is done. ``per_window_scale``: the scales of a dynamically quantised
    head are each window's own, not the whole image's. ``dequantize_head``: a head's
    weights in blocks of few bits are written in floats. Raises UsageError.

    >>> options = onnxfc.RewriteOptions(output="mean")
    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", options=options).claim.outputs[0].form
    'mean'
    """

    output: Form = "map"
    global_pool: GlobalPool = "window"
    dynamic_batch: bool = False
    size: tuple[int, ...] | None = None
    inputs: tuple[str, ...] = ()
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    output_at: tuple[str, ...] = ()
    grids: Grids | None = None
    grow: Grow | None = None
    fixed_size: tuple[int, ...] | None = None
    form: Written | None = None
    keep_output_shape: bool = False
    max_kernel: int | None = None
    max_pool: int | None = None
    profile: str | None = None
    per_window_scale: bool = False
    dequantize_head: bool = False

    def __post_init__(self) -> None:
        errors.choice("output", self.output, get_args(Form))
        errors.choice("global_pool", self.global_pool, get_args(GlobalPool))
        errors.flag("dynamic_batch", self.dynamic_batch)
        errors.flag("keep_output_shape", self.keep_output_shape)
        if self.grids is not None:
            errors.choice("grids", self.grids, get_args(Grids))
        if self.grow is not None:
            errors.choice("grow", self.grow, get_args(Grow))
        errors.flag("per_window_scale", self.per_window_scale)
        errors.flag("dequantize_head", self.dequantize_head)
        if self.form is not None:
            errors.choice("form", self.form, get_args(Written))
        for name in ("size", "fixed_size"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, errors.size(name, getattr(self, name)))
        for name in ("inputs", "free", "output_at"):
            object.__setattr__(self, name, errors.names(name, getattr(self, name)))
        object.__setattr__(self, "input_shapes", errors.shapes("input_shapes", self.input_shapes))
        for name in self.free:
            errors.choice("free", name, dict.fromkeys(name for names in SIZE_NAMES.values() for name in names))
        if self.output == "max" and self.global_pool == "drop":
            why = "--output max of a dropped pool is not the original's score"
            raise UsageError(f"{why}; use --output mean or --global-pool window")
        self._check_form()

    def _check_form(self) -> None:
        """What goes with which form."""
        for name in ("max_kernel", "max_pool"):
            if getattr(self, name) is not None:
                errors.whole(name, getattr(self, name), 1)
                if self.form != "conv4d":
                    raise UsageError(f"--{name.replace('_', '-')} is for --form conv4d; give both")
        if self.profile is not None and self.form != "conv4d" and self.fixed_size is None:
            raise UsageError("--profile is for models of one size: give --form conv4d or --fixed-size too")
        if self.keep_output_shape and self.form != "conv4d":
            raise UsageError("--keep-output-shape is for --form conv4d; a map for any size has no room in one vector")
        if self.form == "gemm" and replace(self, form=None) != RewriteOptions(size=self.size, inputs=self.inputs):
            raise UsageError("--form gemm takes --size and --input alone: it is for the native size, and makes no map")
        if self.form == "conv4d" and (self.dynamic_batch or self.output != "map"):
            option = "--dynamic-batch" if self.dynamic_batch else f"--output {self.output}"
            raise UsageError(f"{option} is not for --form conv4d, whose tensors are maps (1, C, H, W)")
