"""Fused operators of onnxruntime's optimised dumps (domain com.microsoft): as the operators that they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxfc.rules.convolution import WINDOWED, sliding
from onnxfc.rules.elementwise import elementwise, elementwise_features
from onnxfc.rules.fc import gemm
from onnxfc.rules.table import FEATURES, PLACED, rule
from onnxfc.site import Outcome, Site
from onnxfc.views import ScoreMap

_MICROSOFT = "com.microsoft"
_PARAMETERS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}


@rule("FusedConv", on=PLACED, domain=_MICROSOFT, attributes=(*WINDOWED, "strides", "activation", "activation_params"))
def fused_conv(site: Site) -> Outcome | None:
    """A Conv and the activation behind it; one with a third summand is refused."""
    if site.has_input(3):
        return site.refuse("unsupported-operator", "adds another map", "export without onnxruntime's optimisation")
    return sliding(site)


_GEMM = ("activation", "activation_alpha", "activation_beta", "activation_gamma", "alpha", "beta", "transA", "transB")


@rule("FusedGemm", on=FEATURES, domain=_MICROSOFT, attributes=_GEMM)
@rule("FusedGemm", on=PLACED, domain=_MICROSOFT, attributes=_GEMM)
def fused_gemm(site: Site) -> Outcome | None:
    """The Gemm's Conv, and its activation behind it."""
    activation = str(site.attrs.get("activation", ""))
    if activation not in _PARAMETERS:
        return site.refuse("unknown-attribute", f"has the activation {activation or '(none)'}, which is not understood")
    outcome = gemm(site)
    if not isinstance(outcome, list) or not isinstance(outcome[0], ScoreMap):
        return outcome
    scores = outcome[0]
    values: dict[str, Any] = {name: site.attrs.get(f"activation_{name}") for name in _PARAMETERS[activation]}
    return [replace(scores, tensor=site.draft.emit(activation, [scores.tensor], **values))]


rule("Gelu", "QuickGelu", on=PLACED, domain=_MICROSOFT, attributes=("alpha",))(elementwise)
rule("Gelu", "QuickGelu", on=FEATURES, domain=_MICROSOFT, attributes=("alpha",))(elementwise_features)
