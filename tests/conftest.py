"""Shared by all tests: they share the processors; large ones, and most of each long sweep, run when asked for.

A sweep says one thing of many cases: of every fixture with every option, say. Of a test marked ``sweep(n)`` one in n of
them is run, spread over all and the same in each run, and so many more that each value of a parameter that has few is
met. Of other tests with parameters it is one in three; ``sweep(1)`` is for those of which each case is wanted.
``--half``, which ``.ci/run`` gives, runs half of each sweep and the others whole. All are run with ``--all``, and where
tests are named: by ``-k`` or as ``file::test``. Of random examples a plain run tries one in eight (of hypothesis' own
100 a quarter), one with ``--half`` a quarter (all).
"""

from __future__ import annotations

import gc
import os
import zlib
from collections import Counter

import pytest
from hypothesis import settings

FEW = 8
"""Values of a parameter up to which a sweep meets each."""
GOLDEN = (5**0.5 - 1) / 2
"""Steps of it lie evenly, and keep in step with no period of the cases."""
MOST_WORKERS = 4
"""Each may hold a model of half a gigabyte more than once."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command that a test runs would compile all of onnxfc anew
gc.set_threshold(50_000, 20, 20)  # seldom, as in the command itself

settings.register_profile("tests", deadline=None)  # how long an example takes depends on what else runs
settings.register_profile("few", deadline=None, max_examples=25)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One worker a processor, unless ``-n`` or ``-p no:xdist`` says otherwise."""
    alone = hasattr(config, "workerinput") or config.option.collectonly
    if alone or not config.pluginmanager.hasplugin("xdist") or config.option.numprocesses is not None:
        return
    config.option.numprocesses = "auto"
    config.option.maxprocesses = config.option.maxprocesses or MOST_WORKERS
    if config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: no garbage is to be found among them."""
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run all cases of sweeps, not a part of each")
    parser.addoption("--half", action="store_true", help="run half of the cases of each sweep, all of other tests")


def pytest_configure(config: pytest.Config) -> None:
    """Tell modules of tests, which draw random examples as they are loaded, how many are wanted."""
    everything = _everything(config)
    settings.load_profile("tests" if everything or config.option.half else "few")
    os.environ["ONNXFC_ONE_IN"] = "1" if everything else "4" if config.option.half else "8"


def _everything(config: pytest.Config) -> bool:
    """Whether sweeps are run whole."""
    return bool(config.option.all or config.option.keyword or any("::" in str(given) for given in config.args))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``large`` unless a ``-m`` expression decides about them, and what sweeps leave out."""
    left: set[pytest.Item] = set()
    if "large" not in str(config.getoption("-m")):
        left = {item for item in items if item.get_closest_marker("large")}
    if not _everything(config):
        left |= _left_out(items, config.option.half)
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]


def _left_out(items: list[pytest.Item], half: bool = False) -> set[pytest.Item]:
    """The cases that a run does without, of sweeps alone where it takes ``half`` of each."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    return {item for name, cases in tests.items() for item in set(cases) - _part(name, cases, _share(cases, half))}


def _share(cases: list[pytest.Item], half: bool) -> float:
    """The part of a test's cases that is run."""
    mark = cases[0].get_closest_marker("sweep")
    if mark is None:
        return 1.0 if half else 1 / 3
    return max(0.5 if half else 0.0, 1 / mark.args[0])


def _part(name: str, cases: list[pytest.Item], share: float) -> set[pytest.Item]:
    """Such a part of the cases of the test of this ``name``. Those of a file begin alike: they may share cases."""
    start = zlib.crc32(name.split("::")[0].encode()) / 2**32
    places = {item: (start + i * GOLDEN) % 1 for i, item in enumerate(cases)}
    part = {item for item in cases if places[item] < share} or {min(cases, key=places.__getitem__)}
    having: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in cases:
        for value in _values(item):
            having.setdefault(value, []).append(item)
    count = Counter(parameter for parameter, _ in having)
    few = min(FEW, len(cases) // 4)  # not those of a parameter that has another value in each case
    for (parameter, _), some in having.items():
        if count[parameter] <= few and part.isdisjoint(some):
            part.add(min(some, key=places.__getitem__))
    return part


def _values(item: pytest.Item) -> list[tuple[str, str]]:
    """Each parameter and its value in this case: as text, or which of its values it is."""
    call = getattr(item, "callspec", None)
    given = call.params.items() if call else ()
    return [(name, repr(value) if isinstance(value, str | int) else f"#{call.indices[name]}") for name, value in given]
