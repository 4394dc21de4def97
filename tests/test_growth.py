"""What a rewrite without proof costs grows with the nodes, not with their square."""

from __future__ import annotations

import cProfile
import pstats
import sys
import tracemalloc
from collections.abc import Iterable, Iterator

import onnx
import pytest
from cli_runs import ROOT

import onnxfc
from onnxfc.layout.gathered import Gathered

FEW, MANY = 100, 800


@pytest.fixture(scope="module")
def chains() -> Iterator[dict[tuple[str, int], onnx.ModelProto]]:
    """The benchmark's chains, of few and of many nodes."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from chain import KINDS, Chain

        made = {}
        for kind in KINDS:
            for nodes in (0, FEW, MANY):
                chain = Chain()
                while len(chain.nodes) < nodes:
                    KINDS[kind](chain)
                made[kind, nodes] = chain.model()
        onnxfc.rewrite(made["padded", 0], prove=False)  # what is loaded once is not counted
        yield made
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("kind", ["padded", "residual", "reshaped", "computed", "gated"])
def test_calls_and_memory(chains: dict[tuple[str, int], onnx.ModelProto], kind: str) -> None:
    calls, memory = {}, {}
    for nodes in (0, FEW, MANY):
        with cProfile.Profile() as profile:
            onnxfc.rewrite(chains[kind, nodes], prove=False)
        calls[nodes] = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
        tracemalloc.start()
        onnxfc.rewrite(chains[kind, nodes], prove=False)
        memory[nodes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    for cost in (calls, memory):
        few, many = ((cost[nodes] - cost[0]) / nodes for nodes in (FEW, MANY))
        assert many < 1.3 * few, cost


def test_gathered_is_a_set() -> None:
    one, two = Gathered([1, 2]), Gathered([3])
    assert not Gathered()
    assert sorted(one | [2, 4]) == [1, 2, 4]
    assert sorted(Gathered.joined([one, two, Gathered(), one])) == [1, 2, 3]
    assert one | two == Gathered([3, 2, 1])
    assert hash(one | two) == hash(Gathered([1, 2, 3]))
    assert one | two != one
    assert one | () is one
    assert Gathered.joined([Gathered(), two]) is two
    assert sorted(one) == [1, 2]


def test_gathered_over_a_graph_that_joins_again_and_again() -> None:
    """Each item comes once, and a path for each way through the graph is not taken; nor is Python's stack."""
    made = Gathered([0])
    for k in range(1, 3000):
        made = Gathered.joined([made | [k], made])
    assert list(made).count(5) == 1
    assert sorted(made) == list(range(3000))


class _Counted(frozenset[int]):
    """A set that counts how often it is asked."""

    asked = 0

    def isdisjoint(self, other: Iterable[object]) -> bool:
        self.asked += 1
        return super().isdisjoint(other)


def test_gathered_is_asked_once_for_each_node() -> None:
    sets = [Gathered([0])]
    for k in range(1, 2000):
        sets.append(Gathered.joined([sets[-1] | [k], sets[-1], Gathered([-k])]))
    wanted, known = _Counted({-1500, 1700}), dict[int, bool]()
    assert [item.meets(wanted, known) for item in sets] == [k >= 1500 for k in range(2000)]
    assert wanted.asked < 20_000
    assert not sets[-1].meets(frozenset({5000}), {})
    assert sets[-1].meets(frozenset({0}), {})
