"""The lowest versions that pyproject.toml allows are those that the tests run with."""

from __future__ import annotations

import sys

from cli_runs import ROOT
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("scan", "dask", "test")


def test_lowest_versions_are_the_bounds() -> None:
    """``.ci/lowest.txt`` is what ``.ci/run`` and the workflow give to pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    bounds = {_pin(Requirement(line)) for line in lines if not line.startswith("onnxfc[")}
    pins = (ROOT / ".ci" / "lowest.txt").read_text("utf-8").splitlines()
    assert pins == sorted(bounds)


def _pin(requirement: Requirement) -> str:
    [bound] = requirement.specifier
    assert bound.operator == ">=", requirement
    return f"{requirement.name}=={bound.version}" + (f"; {requirement.marker}" if requirement.marker else "")
