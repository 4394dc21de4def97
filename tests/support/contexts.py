"""Pytest plugin for a measured run: what another process executes is counted for the test that started it.

    PYTHONPATH=tests/support python -m pytest -p contexts --cov --cov-context=test

The seconds of each test that passed are written into the file that ``TEST_SECONDS`` names.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from pathlib import Path

import pytest

_SETTINGS = "COVERAGE_PROCESS_CONFIG"
"""Where coverage's patch ``subprocess`` leaves its settings for new processes: JSON, in base64."""

_seconds: Counter[str] = Counter()
_failed: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _SETTINGS in os.environ:
        settings = json.loads(base64.b64decode(os.environ[_SETTINGS]))
        settings["context"] = item.nodeid
        os.environ[_SETTINGS] = base64.b64encode(json.dumps(settings).encode()).decode()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and "TEST_SECONDS" in os.environ:
        passed = {name: seconds for name, seconds in _seconds.items() if name not in _failed}
        Path(os.environ["TEST_SECONDS"]).write_text(json.dumps(passed), "utf-8")
