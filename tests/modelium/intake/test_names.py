"""Names of models, and of what lies in the folders of drops and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import DropRejected
from modelium.intake.names import check_name, is_name, model_name, version_of, with_ending


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("m", True),
        ("7b", True),
        ("a.b_c-d", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        (".m", False),
        ("a b", False),
        ("m\n", False),
        ("origin.json", False),
        ("reason.json", False),
        ("removed.json", False),
        ("config.json", True),
    ],
)
def test_which_names_a_model_can_have(name: str, valid: bool) -> None:
    assert is_name(name) is valid
    if valid:
        check_name(name)
    else:
        with pytest.raises(DropRejected) as caught:
            check_name(name)
        shown = name[:120] + ("…" if len(name) > 120 else "")
        assert (str(caught.value), caught.value.reason) == (
            f"{shown.replace(chr(10), '?')!r} is not a valid model name: use up to 128 letters, "
            "digits, '.', '_' and '-', starting with a letter or digit, and none of origin.json, "
            "reason.json, removed.json",
            "name",
        )


@pytest.mark.parametrize(
    ("entry", "means"),
    [
        ("m", ("m", 1)),
        ("m@1", ("m", 1)),
        ("m@2", ("m", 2)),
        ("m@999999999", ("m", 999_999_999)),
        ("m@1000000000", None),
        ("@2", None),
        ("a b@2", None),
        ("reason.json", None),
    ],
)
def test_an_entry_of_the_repository_is_a_version(entry: str, means: tuple[str, int] | None) -> None:
    assert version_of(Path("/r") / entry) == means


@pytest.mark.parametrize(
    ("file", "name", "renamed"),
    [
        ("m.tar.gz", "m", "n.tar.gz"),
        ("m.tgz", "m", "n.tgz"),
        ("m.zip", "m", "n.zip"),
        ("m.tar", "m", "n.tar"),
        ("m.gguf", "m", "n.gguf"),
        ("a.b.gguf", "a.b", "n.gguf"),
        ("m.gz", "m", "n.gz"),
        ("m", "m", "n"),
        (".gguf", ".gguf", "n"),
    ],
)
def test_the_ending_of_a_file_is_no_part_of_its_models_name(
    tmp_path: Path, file: str, name: str, renamed: str
) -> None:
    (tmp_path / file).touch()
    assert model_name(tmp_path / file) == name
    assert with_ending("n", tmp_path / file) == renamed
    (tmp_path / "d" / file).mkdir(parents=True)
    assert model_name(tmp_path / "d" / file) == file
    assert with_ending("n", tmp_path / "d" / file) == "n"
