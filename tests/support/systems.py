"""Marks for tests of what not every system has."""

from __future__ import annotations

import os

import pytest

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems: signals, pipes with names, terminals, shells")
