"""A wrong rewrite, or a wrong claim about a right one, never passes its proof."""

from __future__ import annotations

from typing import Any

import pytest
from proof_fc_pairs import (
    FC_MUTATIONS,
    MAP_MUTATIONS,
    REDUCED_MUTATIONS,
    SECOND_MUTATIONS,
    SOFTMAX_MUTATIONS,
    fc_pair,
)
from proof_pool_pairs import POOL_MUTATIONS, pool_pair
from test_proof import run

ALL = FC_MUTATIONS + SOFTMAX_MUTATIONS
MAPS = ALL + MAP_MUTATIONS + ("claim: form global",)
FC_NETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "pad-free": ({}, MAPS),
    "padded": ({"pad": 1}, (*MAPS, "claim: verdict")),
    "dynamic batch, two outputs": ({"batch": "N", "second": True}, MAPS + SECOND_MUTATIONS),
    "static batch": ({"batch": 2}, MAPS),
    # Transposing the map of a 1-D network changes nothing.
    "1-D": ({"dims": 1}, tuple(wrong for wrong in MAPS if wrong != "map transposed")),
    "3-D": ({"dims": 3}, MAPS),
    "mean": ({"form": "mean"}, (*ALL, *REDUCED_MUTATIONS, "claim: form map", "claim: form global")),
    "max": ({"form": "max"}, (*ALL, *REDUCED_MUTATIONS, "claim: form mean", "claim: form global")),
    "logits": ({"softmax": False}, FC_MUTATIONS + MAP_MUTATIONS),
}
# The activation has no pool to get wrong.
UNPOOLED = tuple(wrong for wrong in POOL_MUTATIONS if "pool" not in wrong and wrong != "window too small")
POOL_NETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "window pool": ({}, POOL_MUTATIONS),
    "window pool, padded": ({"pad": 1}, (*POOL_MUTATIONS, "claim: verdict")),
    "features": ({"features": True}, tuple(w for w in POOL_MUTATIONS if w != "claim: form features")),
    "uint8": ({"uint8": True}, POOL_MUTATIONS),
    "side input": ({"side": True}, (*POOL_MUTATIONS, "side lost")),
    "integers": ({"argmax": True}, (*POOL_MUTATIONS, "argmin", "argmax over the grid")),
    "cells": (
        {"form": "cells"},
        tuple(w for w in POOL_MUTATIONS if w not in ("bias lost", "claim: form features")),
    ),
    "activation": ({"form": "activation"}, (*UNPOOLED, "pool kept", "claim: form map")),
    "global": ({"form": "global"}, ("global maximum", "made local", "claim: form mean", "claim: form map")),
    # Half precision cannot show a tenth of a per cent.
    "float16": ({"half": True}, (*(w for w in POOL_MUTATIONS if "0.1 %" not in w and "1 %" not in w), "scale 10 %")),
}


@pytest.mark.sweep(40)
@pytest.mark.parametrize(("net", "wrong"), [(n, w) for n, (_, wrongs) in FC_NETS.items() for w in wrongs])
def test_wrong_fc_rewrite_is_found(net: str, wrong: str) -> None:
    result = run(fc_pair(**FC_NETS[net][0], wrong=wrong))
    assert not result.passed
    assert result.vacuous is None
    assert "failed: " in result.summary() or "contradicted: " in result.summary()


@pytest.mark.sweep(40)
@pytest.mark.parametrize(("net", "wrong"), [(n, w) for n, (_, wrongs) in POOL_NETS.items() for w in wrongs])
def test_wrong_pool_rewrite_is_found(net: str, wrong: str) -> None:
    result = run(pool_pair(**POOL_NETS[net][0], wrong=wrong))
    assert not result.passed
    assert result.vacuous is None


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("wrong", ["fc1 scale 0.1 %", "fc2 scale 0.1 %"])
def test_a_tenth_of_a_per_cent_is_found_for_every_seed(seed: int, wrong: str) -> None:
    assert not run(fc_pair(seed=seed, wrong=wrong)).passed
    assert not run(fc_pair(seed=seed, pad=1, form="mean", wrong=wrong)).passed


def test_at_least_twenty_mistakes_for_each_of_five_networks() -> None:
    assert sum(len(wrongs) >= 20 for _, wrongs in (*FC_NETS.values(), *POOL_NETS.values())) >= 5
