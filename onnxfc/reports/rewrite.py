"""What happened, as text for people and as JSON for programs (``"schema": "onnxfc-report/1"``)."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnxfc.claim.blame import Cause
from onnxfc.claim.claim import elements_of
from onnxfc.claim.scannable import against_scan
from onnxfc.errors import NothingToRewrite, OnnxfcError, ProofFailed, Refusal
from onnxfc.reports.document import parity_as_json
from onnxfc.reports.rows import image_sizes, native, row, size
from onnxfc.version import __version__

if TYPE_CHECKING:
    from onnxfc.builder.state import Replacement
    from onnxfc.claim.claim import Claim
    from onnxfc.forms.profile import Fit
    from onnxfc.geometry import Geometry
    from onnxfc.io.model_file import ModelFile
    from onnxfc.proof.results import Certificate, CropResult, Parity, ParityResult, Rest, WeightResult
    from onnxfc.rewriter.changes import Changes


SCHEMA = "onnxfc-report/1"
LITTLE = 5e-4
"""Shares below are told as they are, not as 0.0 %."""

_QUIET = {"per-window"}
"""Notes that are told with --verbose alone."""
_CAUSES = {
    Cause.PADDING: "padding, where a big image has pixels",
    Cause.PARTIAL_WINDOW: "pool windows that reach beyond the map (ceil_mode)",
    Cause.CONTEXT: "operators that look at the whole image",
    Cause.GRID: "coordinates or tables that span the image",
    Cause.RESIZED: "maps resized to another's size, in another ratio off the stride grid",
}

RELATIONS = {
    "same": "byte for byte",
    "permuted": "in another order",
    "scaled": "times one figure",
    "folded": "with factors folded in",
    "rounded": "in another number type",
    "missing": "not found",
    "untold": "not as it is",
}


class Told(Protocol):
    """What is told of a rewrite, as its result has it."""

    @property
    def file(self) -> ModelFile: ...
    @property
    def claim(self) -> Claim: ...
    @property
    def replacements(self) -> Sequence[Replacement]: ...
    @property
    def notes(self) -> Sequence[Refusal]: ...
    @property
    def map_at_twice(self) -> Sequence[int]: ...
    @property
    def parity(self) -> Parity | None: ...
    @property
    def seconds(self) -> tuple[float, float]: ...
    @property
    def changes(self) -> Changes: ...
    @property
    def any_size(self) -> Told | None: ...
    @property
    def fit(self) -> Fit | None: ...
    @property
    def geometry(self) -> Geometry: ...


def text(result: Told, verbose: bool = False) -> str:
    """The report of a rewrite, to be understood at a glance."""
    claim, fixed = (result.any_size or result).claim, result.claim.fixed_size
    lines = list(_replaced(result))
    if fixed and result.any_size is None:
        return "\n".join([*lines, row("image size", f"{size(fixed)} px, as before"), *_proven(result, verbose)])
    whole = is_whole(claim)
    stride = "one score vector at every size" if whole else f"stride {size(claim.stride)} px"
    lines.append(row("native size", f"{native(claim)}, {stride}"))
    if result.map_at_twice:
        lines.append(row("map", f"{size(result.map_at_twice)} cells at {size(claim.twice_native)} px"))
    if fixed:
        cells = "" if whole else f", {size(result.geometry.cells(*fixed))} cells"
        lines.append(row("image size", f"{size(fixed)} px alone{cells}"))
    elif set(claim.size_step) != {1}:
        lines.append(row("image sizes", image_sizes(claim)))
    lines.append(row("verdict", verdict_text(claim, verbose)))
    lines += grid_rows(claim, verbose)
    if claim.detections:
        ends = some([output.name for output in claim.outputs if output.name not in claim.detections], verbose)
        lines.append(row("detections", f"{some(claim.detections, verbose)}: the nodes behind {ends}, as they were"))
    return "\n".join([*lines, *fit_lines(result.fit, verbose), *_proven(result, verbose)])


def fit_lines(fit: Fit | None, verbose: bool) -> Iterator[str]:
    """What of a model fits an accelerator, and where each limit is from."""
    if fit is None:
        return
    yield row("profile", f"{fit.profile}, as written by {fit.form}: {fit.kept} of {len(fit.findings)} limits are kept")
    for item in fit.findings:
        if item.outside:
            told = some([f"{node} has {value}" for node, value in item.outside], verbose)
            yield row("does not fit", f"{item.limit}: {told} [{item.source}]")
        elif verbose:
            yield row("fits", f"{item.limit}: {item.nodes} nodes [{item.source}]")


def _proven(result: Told, verbose: bool) -> Iterator[str]:
    """The proof, and how long everything took."""
    yield from proof_lines(result.parity, verbose)
    if verbose and result.parity is not None:
        how = result.parity.conditions
        yield row("inputs", f"{', '.join(how.inputs)}; seed {how.seed}, onnxruntime {how.onnxruntime}")
    yield from (row("note", str(note)) for note in result.notes if verbose or note.code not in _QUIET)
    yield from _changed(result) if verbose else ()
    seconds = f"rewritten in {result.seconds[0]:.1f} s"
    yield row("time", seconds + (f", proven in {result.seconds[1]:.1f} s" if result.parity else ""))


def _changed(result: Told) -> list[str]:
    """A table of what there was and what there is."""
    found = result.changes
    rows = [("operators", "before", "after", "")]
    rows += [(f"  {name}", str(old), str(new), "") for name, (old, new) in found.operators.items()]
    old, new = map(amount, found.multiply_adds)
    rows.append(("multiply-adds", old, new, f"  at {size(result.claim.inputs[0].size)} px"))
    old, new = (amount(count, "B") for count in found.weights)
    rows.append(("weights", old, new, ""))
    width = max(15, *(len(name) for name, *_ in rows))
    return [f"{name:<{width}} {old:>10} {new:>10}{more}" for name, old, new, more in rows]


def weights(data: Sequence[Path]) -> list[str]:
    """Where the weights are, if not in the model file."""
    if not data:
        return []
    more = f" and {len(data) - 1} more files" if len(data) > 1 else ""
    return [row("weights", f"in {data[0].name}{more}")]


def written(source: Path, target: Path, result: Told, verbose: bool = False) -> list[str]:
    """What there is now, and what can be done with it."""
    twice = "" if not result.map_at_twice else f" --at {size(result.claim.twice_native)}"
    scans = against_scan(result.claim, result.file.proto.graph) is None
    one, two = argument(source), argument(target)
    steps = [f"onnxfc scan {two} IMAGE map.png"] if scans else []
    if scans and not draws():
        steps = [f"onnxfc scan {two} IMAGE.npy best.csv", TO_DRAW]
    of_rewrite = result.claim.fixed_size and result.any_size is None  # what it was made of is no original to check
    steps += [f"onnxfc inspect {two}{twice}", *([] if of_rewrite else [f"onnxfc check {one} {two}"])]
    before = f", of {source} ({amount(source.stat().st_size, 'B')})" if verbose else ""
    return [
        row("wrote", f"{target} ({amount(target.stat().st_size, 'B')}){before}"),
        *(f"{'' if number else 'next':<15} {step}" for number, step in enumerate(steps)),
    ]


TO_DRAW = "for pictures and other images: pip install 'onnxfc[scan]'"


def draws() -> bool:
    """Whether what pictures need is installed: the extra ``scan``."""
    return find_spec("PIL") is not None


def argument(path: Path) -> str:
    """A path as a shell takes it, also one that looks like an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def amount(number: int, unit: str = "") -> str:
    """``57.1 k``, of a unit ``57.1 kB``."""
    for prefix, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {prefix}{unit}"
    return f"{number} {unit}".rstrip()


def _replaced(result: Told) -> Iterator[str]:
    rows = [(item.node, item.before, item.after) for item in result.replacements]
    if not rows:
        yield "no FC layer: the image's dims were freed, and what was made for the native size with them"
        return
    name, before = (max(len(row[column]) for row in rows) for column in (0, 1))
    for node, was, made in rows:
        yield f"{node:<{name}}  {was:<{before}} ⇒ {made}"


def is_whole(claim: Claim) -> bool:
    """Whether all outputs are of the whole image, and none of windows."""
    return all(output.form == "global" for output in claim.outputs)


def verdict_text(claim: Claim, verbose: bool) -> str:
    whole, elements = is_whole(claim), elements_of(claim.outputs) is not None
    if claim.verdict == "exact":
        if whole:
            return "exact: nothing makes cells differ from crops, but no output has more than one cell"
        if elements:
            return "exact: every element is the same in any crop that holds all that it reads"
        return "exact: every cell is what the original says of that crop"
    causes: dict[str, list[str]] = {}
    for item in claim.blames:
        causes.setdefault(_CAUSES.get(item.cause, item.cause.value), []).append(item.node)
    told = [f"{cause} ({some(nodes, verbose)})" for cause, nodes in causes.items()]
    differs = "a score of the whole image is not one of a crop" if whole else "cells differ from crops"
    differs = "elements differ from those of crops" if elements else differs
    return f"{claim.verdict}: {differs}, because of " + " and ".join(told)


_RULES = {
    "step": "with the steps that they have",
    "image": "as parts of the image",
    "resize": "resized as the graph does",
    **dict.fromkeys(("ends", "centres", "starts"), "spread over the map"),
}


def grid_rows(claim: Claim, verbose: bool) -> Iterator[str]:
    """Which tables go on, and how."""
    found: dict[str, list[str]] = {}
    for grid in claim.grids:
        rules = list(dict.fromkeys(_RULES[rule] for rule in grid.rules if rule))
        found.setdefault(" and ".join(rules) or "as they are on each level", []).append(grid.original)
    for how, tables in found.items():
        yield row("tables", f"go on {how}: {some(list(dict.fromkeys(tables)), verbose)}")


def some(nodes: Sequence[str], verbose: bool) -> str:
    if verbose or len(nodes) <= 2:
        return ", ".join(nodes)
    return f"{nodes[0]} and {len(nodes) - 1} more"


def proof_lines(parity: Parity | None, verbose: bool) -> list[str]:
    if parity is None:
        return [row("proof", "none (--no-check)")]
    lines = [
        row("native parity", _compared(parity.native)),
        row("window parity", _compared(parity.window)),
        row("trunk parity", _compared(parity.trunk)),
        row("shift", _compared(parity.shift)),
        *([row("form parity", _compared(parity.form))] if parity.form.status != "not applicable" else []),
        row("crop agreement", _cropped(parity.crops)),
        *(row("proof rests on", _rest(item)) for item in parity.rests),
        row("certificate", certificate_text(parity.certificate)),
    ]
    if (moved := parity.kernels) is not None:
        told = (
            f"move scores by {moved.original:.1%} of their signal in the original, {moved.rewritten:.1%} in this model"
        )
        lines.append(row("integer kernels", told))
    how = parity.conditions
    if parity.provider.status != "not applicable":
        own = f"; on the CPU: {some(how.on_cpu, verbose)}" if how.on_cpu else ""
        lines.append(row("provider", f"{how.provider}{own}"))
        lines.append(row("CPU against it", _compared(parity.provider)))
    if verbose:
        lines += [row("", _weight(item)) for item in parity.certificate.weights]
        for result in (parity.native, parity.window, parity.trunk, parity.shift, parity.form):
            lines += [row("", f"{item.name}: {item.deviation:.1e}, {item.worst}") for item in result.outputs]
    return lines


def _rest(item: Rest) -> str:
    return f"FC layer {', '.join(item.layers)}, compared beside {item.output}, which is {item.problem}"


def certificate_text(found: Certificate) -> str:
    """How many weights of FC layers are which in the second model, in one line."""
    if found.status != "holds":
        return f"{found.status.replace('failed', 'FAILED')}: {found.reason}"
    count = len(found.weights)
    kinds = Counter(RELATIONS[item.relation] for item in found.weights)
    told = next(iter(kinds)) if len(kinds) == 1 else ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    error = max(item.error for item in found.weights)
    more = f", to {error:.0e} of the largest weight" if error else ""
    return f"{count} FC weight{'s are' if count > 1 else ' is'} found in Convs: {told}{more}"


def _weight(item: WeightResult) -> str:
    where = f" = {', '.join(item.found)}" if item.found else ""
    order = f", {item.order}" if item.order else ""
    return f"{item.weight}{where}: {RELATIONS[item.relation]}{order}"


def _without_figures(result: ParityResult | CropResult) -> str:
    """A result that has a reason and no figures; else empty."""
    status = {"not applicable": "not applicable", "not run": "not run", "failed": "FAILED"}.get(result.status)
    return f"{status}: {result.reason}" if status else ""


def _compared(result: ParityResult) -> str:
    if told := _without_figures(result):
        return told
    listed = result.sizes[:6] if len(result.sizes) > 7 else result.sizes  # first those of crops and the user's
    rest = f", {len(result.sizes) - 6} more sizes" if listed != result.sizes else ""
    where = f" at {', '.join(map(size, listed))} px{rest}" if listed else ""
    digits = int(float(f"{result.tolerance:.0e}") < float(f"{result.deviation:.1e}"))  # it is not told as the smaller
    figures = f"largest deviation {result.deviation:.1e}, tolerance {result.tolerance:.{digits}e}"
    more = "".join(f"; {item}" for item in (result.reason, result.frozen) if item)
    return f"passed, {figures} ({result.compared} values{where}){more}"


def _cropped(result: CropResult) -> str:
    if told := _without_figures(result):
        return told
    if result.tolerance is not None and result.deviation <= result.tolerance:
        return f"cells equal crops to {result.deviation:.0e} of the score range ({result.cells} cells)"
    top = "" if result.top1 is None else f", same top class in {result.top1:.0%}"
    top += "" if result.top5 is None else f" (among the top 5 in {result.top5:.0%})"
    most = f"by up to {share_of(result.deviation)} of the score range"
    figures = f"cells differ from crops {most}, median {share_of(result.median)}"
    if result.deviation < LITTLE:
        figures = f"cells hardly differ from crops on these inputs, {most}"
    return f"{figures}{top} ({result.cells} cells)"


def share_of(deviation: float) -> str:
    """A deviation: no rounded 0.0 %, and more than the whole as so many times that."""
    if deviation < LITTLE:
        return f"{deviation:.0e}"
    return f"{deviation:.1%}" if deviation <= 1 else f"{deviation:.1f} times the width"


def refusals(error: NothingToRewrite) -> str:
    """All reasons, one line each."""
    return "\n".join(str(item) for item in error.refusals)


def as_json(result: Told) -> dict[str, Any]:
    """The same as data."""
    return _document("rewritten") | {
        "claim": dataclasses.asdict(result.claim),
        "replacements": [dataclasses.asdict(item) for item in result.replacements],
        "notes": [dataclasses.asdict(item) for item in result.notes],
        "map_at_twice_native": list(result.map_at_twice),
        "parity": parity_as_json(result.parity),
        "fit": None if result.fit is None else dataclasses.asdict(result.fit),
        "seconds": {"rewrite": result.seconds[0], "proof": result.seconds[1]},
    }


def error_as_json(error: OnnxfcError) -> dict[str, Any]:
    """What kept a model from being rewritten."""
    status = {NothingToRewrite: "refused", ProofFailed: "proof failed"}.get(type(error), "error")
    found: tuple[Refusal, ...] = getattr(error, "refusals", ())
    return _document(status) | {
        "message": str(error),
        "exit_code": int(error.exit_code),
        "refusals": [dataclasses.asdict(item) for item in found],
        "parity": parity_as_json(getattr(error, "parity", None)),
    }


def several_as_json(documents: Sequence[dict[str, Any]], code: int) -> dict[str, Any]:
    """The reports of several models, and the worst exit code."""
    return {"schema": "onnxfc-reports/1", "version": __version__, "exit_code": int(code), "reports": list(documents)}


def _document(status: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "version": __version__, "status": status}
