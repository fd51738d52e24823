"""Which names of files are code, and which entries of a configuration name some."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.analysis.readers.code_references import (
    foreign_components,
    is_code,
    names_code,
    names_foreign_parent,
)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a.py", True),
        ("a/b.PY", True),
        ("a.tar.sh", True),
        ("model.plan", True),
        ("model.ENGINE", True),
        ("libx.so.1", True),
        ("libx.DLL.bak", True),
        ("a.plan.txt", False),
        ("a.py.txt", False),
        ("a.so/b.txt", False),
        ("py", False),
        (".py", False),
        ("a.json", False),
        ("a", False),
    ],
)
def test_code_is_known_by_its_name(name: str, code: bool) -> None:
    assert is_code(name) is code


def nested(config: dict[str, Any], levels: int) -> dict[str, Any]:
    return {"part": nested(config, levels - 1), "other": 1} if levels else config


NAMED = {"auto_map": {"AutoModel": "x.Y"}}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, False),
        ({"auto_map": {}}, False),
        ({"auto_map": None, "a": {"b": 1}}, False),
        (NAMED, True),
        ({"a": {"b": {}}, **nested(NAMED, 1)}, True),
        (nested(NAMED, 12), True),
        (nested(NAMED, 800), True),
        (nested({}, 12), False),
        ({"a": [NAMED]}, True),
        ({"a": [1, [[], [{"b": NAMED}]]]}, True),
        ({"a": ["auto_map"], "b": "auto_map"}, False),
    ],
)
def test_a_configuration_names_code_at_any_depth(config: dict[str, Any], named: bool) -> None:
    assert names_code(config) is named


@pytest.mark.parametrize(
    ("mapping", "foreign"),
    [
        (None, False),
        ("transformers", False),
        ({}, False),
        ({"parent_library": None}, False),
        ({"parent_library": "transformers.models.llama"}, False),
        ({"parent_library": "diffusers"}, False),
        ({"parent_library": "os"}, True),
        ({"parent_library": "evil.transformers"}, True),
        ({"parent_library": 7}, True),
        ({"parent_library": ""}, True),
    ],
)
def test_an_adapter_names_a_library(mapping: object, foreign: bool) -> None:
    assert names_foreign_parent({"auto_mapping": mapping}) is foreign
    assert names_foreign_parent({"other": mapping}) is False


def test_components_of_a_pipeline_are_of_known_libraries() -> None:
    index = {
        "_class_name": "P",
        "_private": ["evil", "X"],
        "unet": ["diffusers", "U"],
        "text": ["transformers.models", "T"],
        "vae": ["onnxruntime", "V"],
        "evil": ["evil.diffusers", "E"],
        "triple": ["evil", "E", "F"],
        "single": ["evil"],
        "none": [None, None],
        "number": 7,
        "text2": "ev",
        "last": ["os", "E"],
    }
    assert foreign_components(index) == ["evil", "last"]
    assert foreign_components({**index, "_class_name": ["p", "P"]}) == [
        "evil",
        "last",
        "_class_name",
    ]
    assert foreign_components({}) == []
