"""Where the running service answers is in a file of its state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.control import addresses


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = {"gateway": "http://127.0.0.1:8080", "metrics": None}
    file = addresses.write(tmp_path, given)
    assert file == tmp_path / "endpoints.json"
    assert addresses.read(tmp_path) == given


def test_there_is_nothing_where_no_service_runs(tmp_path: Path) -> None:
    assert addresses.read(tmp_path) == {}


@pytest.mark.parametrize("left", ["", '{"gateway": "http'])
def test_a_file_that_was_cut_off_counts_as_none(tmp_path: Path, left: str) -> None:
    (tmp_path / addresses.FILE).write_text(left)
    assert addresses.read(tmp_path) == {}


def test_the_file_is_this_users_alone_and_ends_with_a_line(tmp_path: Path) -> None:
    file = addresses.write(tmp_path, {"gateway": "http://127.0.0.1:8080"})
    assert file.read_text() == '{\n  "gateway": "http://127.0.0.1:8080"\n}\n'
    assert file.stat().st_mode & 0o777 == 0o600
