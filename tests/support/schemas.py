"""The schemas of the reports."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import jsonschema


def follows(document: object, command: str) -> None:
    """Raise ValidationError unless a report of this command follows its schema."""
    _validator(command).validate(document)


def schema(command: str) -> Any:
    return json.loads(resources.files("onnxfc").joinpath("reports", "schemas", f"{command}.json").read_text("utf-8"))


@cache
def _validator(command: str) -> jsonschema.Draft202012Validator:
    """Made once: that takes thirty times as long as to ask it. That the schema is one, test_check.py asks."""
    return jsonschema.Draft202012Validator(schema(command))
