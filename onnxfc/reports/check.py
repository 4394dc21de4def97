"""The report of a check, as text for people and as JSON for programs (``"schema": "onnxfc-check/1"``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnxfc.errors import ExitCode, OnnxfcError
from onnxfc.reports.document import parity_as_json
from onnxfc.reports.rewrite import proof_lines, verdict_text
from onnxfc.reports.rows import image_sizes, native, row, size
from onnxfc.version import __version__

if TYPE_CHECKING:
    from onnxfc.checker.api import Checked
    from onnxfc.proof.results import Parity


SCHEMA = "onnxfc-check/1"


def text(result: Checked, verbose: bool = False) -> str:
    """All results, and the verdict of the check in the last line."""
    return "\n".join(_lines(result, verbose))


def _lines(result: Checked, verbose: bool) -> Iterator[str]:
    claim, parity = result.claim, result.parity
    yield row("native size", f"{native(claim)}, stride {size(claim.stride)} px")
    if set(claim.size_step) != {1}:
        yield row("image sizes", image_sizes(claim))
    source = "the second model's metadata" if result.claim_from == "metadata" else "derived from the two models"
    yield row("claim", source)
    for item in claim.boundaries:
        yield row(
            "head begins", f"at {item.original}" + (f" = {item.rewritten}" if item.rewritten != item.original else "")
        )
    for note in result.notes:
        yield row("note", note)
    failed = f"none, as the models do not agree; {claim.verdict} is claimed"
    yield row("verdict", verdict_text(claim, verbose) if parity.passed else failed)
    yield from proof_lines(parity, verbose)
    crops = parity.crops
    if crops.worst_cell:
        box = " x ".join(f"{a}..{b}" for a, b in crops.worst_box)
        yield row("worst crop", f"cell {size(crops.worst_cell)}, pixels {box} of {size(crops.size)} px")
    yield row("conditions", _conditions(parity))
    yield row("result", ("passed: " if parity.passed else "FAILED: ") + parity.summary())


def _conditions(parity: Parity) -> str:
    how = parity.conditions
    noise = [item.noise for item in parity.native.outputs if item.noise is not None]
    floor = f"noise floor {max(noise):.0e} of the signal" if noise else "noise floor not measured"
    threads = how.threads or "default"
    inputs = f"inputs {', '.join(how.inputs)}" if how.inputs else "no inputs"
    return f"{inputs}; seed {how.seed}, {floor}, onnxruntime {how.onnxruntime}, threads {threads}, {how.seconds:.1f} s"


def as_json(result: Checked) -> dict[str, Any]:
    """The same as data."""
    options = result.options
    return _document("passed" if result.passed else "failed") | {
        "exit_code": int(ExitCode.DONE if result.passed else ExitCode.PROOF),
        "message": result.parity.summary(),
        "claim": dataclasses.asdict(result.claim),
        "claim_from": result.claim_from,
        "notes": list(result.notes),
        "tolerances": {
            "rtol": options.rtol,
            "atol": options.atol,
            "rtols": dict(options.rtols),
            "atols": dict(options.atols),
            "against_crops": options.against_crops,
        },
        "parity": parity_as_json(result.parity),
    }


def error_as_json(error: OnnxfcError) -> dict[str, Any]:
    """What kept the models from being compared."""
    return _document("error") | {"exit_code": int(error.exit_code), "message": str(error)}


def _document(status: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "version": __version__, "status": status}
