"""rewrite(): the order of the steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxfc import errors, interop
from onnxfc.builder.state import Replacement
from onnxfc.claim.claim import PREFIX, Claim
from onnxfc.errors import NothingToRewrite, ProofFailed, Refusal
from onnxfc.geometry import Geometry
from onnxfc.graph.finite_weights import finite
from onnxfc.graph.wellformed import well_formed
from onnxfc.io.model_file import Model, ModelFile
from onnxfc.io.save import SaveOptions
from onnxfc.reports import rewrite as reports
from onnxfc.rewriter.analyse import analyse
from onnxfc.rewriter.assemble import assemble
from onnxfc.rewriter.changes import Changes, changes
from onnxfc.rewriter.make_claim import claim_of, map_at_twice
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.rewriter.refusals import recognise
from onnxfc.shapes.dim_params import DimNames
from onnxfc.version import __version__

if TYPE_CHECKING:
    import onnx_graphsurgeon

    from onnxfc.forms.profile import Fit
    from onnxfc.proof.options import CheckOptions
    from onnxfc.proof.results import Parity


@dataclass(frozen=True, repr=False)
class Rewrite:
    """A rewritten model, what was done to it, and the proof (None where it was not asked for). ``any_size``: the model
    for any size, where ``file`` was made of it for one (for the native one, numbers may stand in it that hold for that
    size alone, and are refused otherwise); ``fit``: what of that fits an accelerator.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False)
    <Rewrite: native size 16x16 px, stride 4x4 px, approximate, not proven>
    """

    file: ModelFile = field(repr=False)
    original: ModelFile = field(repr=False)
    claim: Claim
    replacements: tuple[Replacement, ...]
    notes: tuple[Refusal, ...]
    map_at_twice: tuple[int, ...]
    parity: Parity | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    any_size: Rewrite | None = field(default=None, repr=False)
    fit: Fit | None = None

    @property
    def model(self) -> onnx.ModelProto:
        """The rewritten model with all its weights, as ``onnx.load`` would give it."""
        return self.file.loaded()

    @property
    def geometry(self) -> Geometry:
        """Where cells lie, in pixels."""
        return Geometry.from_model(self.file)

    @property
    def changes(self) -> Changes:
        """Operators, multiply-adds and weights before and after."""
        return changes(self.original, self.file, self.claim)

    def to_graphsurgeon(self) -> onnx_graphsurgeon.Graph:
        """The rewritten model as a graph to edit; metadata_props are not in it, since that library has no place for
        them."""
        return interop.to_surgeon(self.model)

    def text(self, verbose: bool = False) -> str:
        """The report for people, as the command line prints it."""
        return reports.text(self, verbose)

    def report(self) -> dict[str, Any]:
        """The report for programs, as ``--report`` writes it."""
        return reports.as_json(self)

    def proven(
        self,
        options: CheckOptions | None = None,
        progress: Callable[[str], None] | None = None,
        source: ModelFile | None = None,
        form: ModelFile | None = None,
    ) -> Parity:
        """Put it to the test; ``form``: in place of what was made for one size."""
        from onnxfc.proof import check  # only now: what is not proven does without
        from onnxfc.proof.one_size import check_form
        from onnxfc.proof.options import CheckOptions

        errors.options("options", options, CheckOptions)
        options = options or CheckOptions()
        if self.any_size is None and self.claim.fixed_size:
            only = replace(options, larger=False, windows=False)
            return check(form or self.file, self.original, self.claim, only, progress)
        if self.any_size is None:
            return check(self.original, self.file, self.claim, options, progress, source)
        pair = self.any_size.file, form or self.file
        return check_form(self.original, *pair, self.any_size.claim, self.claim, options, progress, source)

    def __repr__(self) -> str:
        proof = "not proven" if self.parity is None else self.parity.summary()
        sizes = "x".join(map(str, self.claim.native_size)), "x".join(map(str, self.claim.stride))
        return f"<Rewrite: native size {sizes[0]} px, stride {sizes[1]} px, {self.claim.verdict}, {proof}>"

    def save(self, path: str | Path, options: SaveOptions | None = None) -> list[Path]:
        """Write the model atomically; returns its data files. Raises WriteError, or UsageError for the original."""
        return self.file.save(path, options)


def rewrite(
    model: Model,
    *,
    options: RewriteOptions | None = None,
    check_options: CheckOptions | None = None,
    prove: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Rewrite:
    """Rewrite a classifier so that it runs on any image size, and prove it.

    ``model``: a path, bytes, a protobuf, an onnx-graphsurgeon graph. ``prove=False`` leaves the proof out;
    ``progress`` gets short phrases. An output of shape (N, K) becomes a map (N, K, gH, gW), one cell for each window.

    >>> result = onnxfc.rewrite("fixtures/torch/lenet.dynamo.onnx")
    >>> result.claim.native_size, result.claim.stride, result.claim.verdict
    ((28, 28), (4, 4), 'exact')

    Raises ReadError, UsageError, NothingToRewrite (with all refusals) or ProofFailed (with the parity).
    """
    errors.options("options", options, RewriteOptions)
    if check_options is not None:
        from onnxfc.proof.options import CheckOptions

        errors.options("check_options", check_options, CheckOptions)
    options = options or RewriteOptions()
    began = time.perf_counter()
    original = ModelFile.open(model)
    done = _rewritten(original, options)
    written = time.perf_counter()
    if not prove:
        return replace(done, seconds=(written - began, 0.0))
    parity = done.proven(check_options, progress, original)
    if not parity.passed:
        told = parity.summary()
        if parity.vacuous is not None and told.endswith(parity.vacuous):
            told += ", or skip the proof with --no-check"
        raise ProofFailed(told, parity)
    return replace(done, parity=parity, seconds=(written - began, time.perf_counter() - written))


def _rewritten(original: ModelFile, options: RewriteOptions) -> Rewrite:
    well_formed(original)
    if options.form == "gemm":
        from onnxfc.rewriter.rows import rows  # only now: a model for any size does without forms

        finite(original)
        made = rows(original, options)
        return Rewrite(made.file, original, made.claim, made.replacements, (), ())
    recognise(original)
    finite(original)
    found = analyse(original, options)
    if found.refusals:
        raise NothingToRewrite(str(found.refusals[0]), found.refusals)
    sizing = found.sizing()
    claim = claim_of(found, sizing)
    metadata = claim.to_metadata() | {f"{PREFIX}version": __version__}
    del metadata[f"{PREFIX}fixed_size"]  # it takes any; a form of it says its own
    axes = {output.name: output.axes for output in claim.outputs}
    names = DimNames(found.reading, found.state.graph, sizing, claim)
    proto = assemble(found.state, found.reading, axes, metadata, names, original.proto.graph, found.original.proto)
    done = Rewrite(
        file=found.original.with_proto(found.tail.behind(proto, found.state, found.reading) if found.tail else proto),
        original=found.tail.model if found.tail else found.original,
        claim=claim,
        replacements=tuple(found.state.replacements),
        notes=tuple(found.state.remarks),
        map_at_twice=map_at_twice(claim, sizing),
    )
    if options.fixed_size is None and options.form is None:
        return done
    from onnxfc.rewriter.form import formed

    own = formed(done.file, claim, Geometry.of_sizing(claim, sizing), options, original)
    told = (*done.replacements, *own.split)
    return replace(done, file=own.file, claim=own.claim, replacements=told, map_at_twice=(), any_size=done, fit=own.fit)
