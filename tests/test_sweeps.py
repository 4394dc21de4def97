"""What a plain run leaves out of long sweeps: most cases, but no test, and no value of a parameter that has few."""

from __future__ import annotations

from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import FEW, _left_out


class Case:
    """A test with parameters, as far as sweeps know one."""

    def __init__(self, name: str, share: int | None, **params: object) -> None:
        self.nodeid = f"{name}[{'-'.join(map(str, params.values()))}]"
        self.callspec = SimpleNamespace(params=params, indices=dict.fromkeys(params, 0))
        self._mark = None if share is None else pytest.mark.sweep(share).mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._mark if name == "sweep" else None


def run(cases: list[Any], half: bool = False) -> list[Case]:
    left = _left_out(cases, half)
    return [case for case in cases if case not in left]


@pytest.mark.parametrize("share", [2, 3, 6])
def test_one_in_so_many_spread_over_all(share: int) -> None:
    cases = [Case("tests/test_a.py::test_files", share, file=f"{number}.onnx") for number in range(600)]
    chosen = run(cases)
    assert abs(len(chosen) - 600 / share) <= 2
    places = [cases.index(case) for case in chosen]
    assert max(after - before for before, after in pairwise(places)) <= 3 * share
    assert chosen == run(cases)


@pytest.mark.parametrize("share", [2, 6, 30])
def test_half_holds_what_a_plain_run_takes(share: int) -> None:
    cases = [Case("tests/test_a.py::test_files", share, file=f"{number}.onnx") for number in range(600)]
    half = run(cases, half=True)
    assert abs(len(half) - 300) <= 2
    assert set(map(id, run(cases))) <= set(map(id, half))


def test_no_test_is_left_out() -> None:
    for number in range(40):
        cases = [Case(f"tests/test_{number}.py::test_two", 50, file=name) for name in ("a", "b")]
        assert len(run(cases)) == 1


def test_each_value_of_a_parameter_that_has_few_is_met() -> None:
    few, many = [f"option {number}" for number in range(FEW)], [f"{number}.onnx" for number in range(FEW + 1)]
    cases = [Case("tests/test_a.py::test_all", 30, file=file, option=option) for file, option in product(many, few)]
    chosen = run(cases)
    assert {case.callspec.params["option"] for case in chosen} == set(few)
    assert len(chosen) <= FEW + len(cases) / 30 + 1


def test_tests_of_one_file_choose_the_same_cases() -> None:
    names = ("test_one", "test_two")
    cases = [Case(f"tests/test_a.py::{name}", 5, file=f"{number}") for name in names for number in range(50)]
    one, two = ([c.callspec.params for c in run(cases) if f"::{name}[" in c.nodeid] for name in names)
    assert one == two


def test_of_others_it_is_one_in_three() -> None:
    cases = [Case("tests/test_a.py::test_other", None, file=str(number)) for number in range(100)]
    assert abs(len(run(cases)) - 33) <= 1
    assert run(cases, half=True) == cases
    assert len(run(cases[:1])) == len(run(cases[:2])) == 1
    wanted = [Case("tests/test_a.py::test_page", 1, page=str(number)) for number in range(100)]
    assert run(wanted) == wanted
