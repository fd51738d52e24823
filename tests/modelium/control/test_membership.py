"""What a machine keeps of its membership."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from modelium.control.membership import FILE, node_secret
from modelium.errors import InputError


def test_a_machine_keeps_its_secret_to_itself(tmp_path: Path) -> None:
    made = node_secret(tmp_path)
    assert made.startswith("mdn_")
    assert node_secret(tmp_path) == made
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    """A full disk leaves one; all machines that have one would be the same node."""
    (tmp_path / FILE).touch()
    made = node_secret(tmp_path)
    assert made.startswith("mdn_")
    assert node_secret(tmp_path) == made


def test_a_folder_that_takes_no_secret_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"node.key cannot be written \(No such file or directory"):
        node_secret(tmp_path / "missing")
