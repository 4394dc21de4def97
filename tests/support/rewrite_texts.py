"""Rewrites as text: a title that states the algebra, the model before and the model after.

A text in ``tests/rewrites`` reads::

    Flatten, then Gemm over C x h x w, is Conv h x w.
    options: global_pool=keep            (where the rewrite has options)

    --- before
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,2,6,6] image, float[5,72] W) => (float[1,5] y) {...}

    --- after (or: --- refused)
    ...

Models are written as ``onnx.parser`` reads them. Inputs named ``image...`` are images; every other input of the text
is a weight, to which the test gives seeded random values. Constants that matter are written with their values.
``python tests/rewrites/refresh.py`` writes the last part anew.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx.printer
from onnx import numpy_helper

from onnxfc import Claim, NothingToRewrite, RewriteOptions, rewrite

FOLDER = Path(__file__).parents[1] / "rewrites"
BEFORE, AFTER, REFUSED = "--- before\n", "--- after\n", "--- refused\n"
SHOWN = 16
"""Up to so many integers a constant is shown with its values."""


@dataclass(frozen=True)
class Text:
    """One file: what it says, what goes in, and what is to come out."""

    title: str
    options: RewriteOptions
    before: str
    head: str
    end: str

    @classmethod
    def read(cls, path: Path) -> Text:
        top, _, rest = path.read_text("utf-8").partition(BEFORE)
        before, mark, end = re.match(rf"(.*?)(?:({AFTER}|{REFUSED})(.*))?\Z", rest, re.DOTALL).groups()  # type: ignore[union-attr]
        title, *lines = top.strip().splitlines()
        given = [line.removeprefix("options: ").split() for line in lines if line.startswith("options: ")]
        named = dict(item.split("=") for line in given for item in line)
        several = {name: tuple(named.pop(name).split(",")) for name in ("free",) if name in named}
        options = RewriteOptions(**named, **several)  # type: ignore[arg-type]
        return cls(title, options, before, top + BEFORE + before.rstrip() + "\n\n", (mark or "") + (end or ""))


def paths() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))


def readable(text: Text) -> bool:
    """Whether the installed onnx knows the opset of a text."""
    opsets = {item.domain: item.version for item in onnx.parser.parse_model(text.before).opset_import}
    return opsets[""] <= onnx.defs.onnx_opset_version()


def end_of(text: Text, prove: bool = True) -> str:
    """The last part of a text, as the rewrite makes it."""
    model = with_weights(onnx.parser.parse_model(text.before))
    try:
        done = rewrite(model, options=text.options, prove=prove)
    except NothingToRewrite as refused:
        return REFUSED + "".join(f"{item}\n" for item in refused.refusals)
    return AFTER + claim_line(done.claim) + printed(done.model, onnx.parser.parse_model(text.before))


def refresh(path: Path) -> bool:
    """Write the last part of a text anew; says whether it was another before."""
    text = Text.read(path)
    end = end_of(text)
    if end != text.end:
        path.write_text(text.head + end, "utf-8")
    return end != text.end


def claim_line(claim: Claim) -> str:
    """What the rewritten model says of itself, as a comment."""
    native, stride = ("x".join(map(str, size)) for size in (claim.native_size, claim.stride))
    blame = f" ({'; '.join(claim.blame)})" if claim.blame else ""
    return f"# {claim.verdict}{blame}, native size {native}, stride {stride}\n"


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with seeded random values for each input that is no image."""
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(item for item in inputs if item.name.startswith("image"))
    for item in inputs:
        if not item.name.startswith("image"):
            model.graph.initializer.append(numpy_helper.from_array(_values(item), item.name))
    onnx.checker.check_model(model)
    return model


def _values(item: onnx.ValueInfoProto) -> np.ndarray:
    """Normal, of a size that keeps the signal's; a variance is positive. Integers of eight bits use most of these."""
    kind = item.type.tensor_type
    shape = tuple(dim.dim_value for dim in kind.shape.dim)
    values = np.random.default_rng(zlib.crc32(item.name.encode())).standard_normal(shape)
    if kind.elem_type == onnx.TensorProto.INT8:
        return np.clip(40 * values, -127, 127).astype(np.int8)
    values = 0.5 + np.abs(values) if item.name.startswith("var") else values / math.sqrt(max(1, math.prod(shape[1:])))
    return values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def printed(model: onnx.ModelProto, before: onnx.ModelProto) -> str:
    """As ``onnx.printer`` writes it, in the style of ``before``: weights as inputs, constants with their values.

    Names of tensors are as they are; those of nodes, which not every ``onnx.parser`` reads, are left out.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for field in ("metadata_props", "producer_name", "producer_version", "domain", "doc_string"):
        bare.ClearField(field)
    del bare.graph.value_info[:], bare.graph.initializer[:]
    for node in bare.graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
    ranks = {item.name: place for place, item in enumerate(before.graph.input)}
    valued = {tensor.name for tensor in before.graph.initializer}
    for tensor in sorted(model.graph.initializer, key=lambda tensor: ranks.get(tensor.name, len(ranks))):
        if tensor.name in valued or (tensor.name not in ranks and _is_short(tensor)):
            bare.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        else:
            shown = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.graph.input.append(shown)
    return _tidied(onnx.printer.to_text(bare))


def _is_short(tensor: onnx.TensorProto) -> bool:
    count = math.prod(tensor.dims)
    whole = tensor.data_type in {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    return count <= (SHOWN if whole else 1)


def _tidied(text: str) -> str:
    """The header on one line, no types of attributes where their values tell, inputs left out as nothing."""
    text = re.sub(r"\A<(.*?)\n>", lambda found: "<" + " ".join(found[1].split()) + ">", text, flags=re.DOTALL)
    text = re.sub(r"(\w+): (?:ints|int|string) = ", r"\1 = ", text)
    text = re.sub(r" = +(\{.*?\})", lambda found: " = " + found[1].replace(",", ", "), text)
    text = re.sub(r"(?<=[(,] )\"\"(?=[,)])|(?<=\()\"\"(?=,)", "", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
