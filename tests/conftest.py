"""Shared by all tests: they share the processors, and the large ones run only when they are asked for."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

MOST_WORKERS = 4
"""Each may hold a model of half a gigabyte more than once."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command that a test runs would compile all of onnxfc anew
gc.set_threshold(50_000, 20, 20)  # seldom, as in the command itself

settings.register_profile("tests", deadline=None)  # how long an example takes depends on what else runs
settings.load_profile("tests")


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``large`` unless a ``-m`` expression decides about them."""
    if "large" in str(config.getoption("-m")):
        return
    large = [item for item in items if item.get_closest_marker("large")]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]
