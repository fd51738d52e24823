from __future__ import annotations

from pathlib import Path

import pytest

from agents.replay.traces import parse_devices, read_trace
from modelium.errors import InputError
from modelium.models import (
    GIB,
)
from tests.agents.replay.small_traces import trace_files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return trace_files(tmp_path)


def test_requests_are_sorted_and_timed_by_their_tokens(files: tuple[Path, Path]) -> None:
    got = read_trace(*files)
    assert [(r.t_s, r.model) for r in got.requests] == [(0, 0), (5, 1), (9, 0)]
    assert got.requests[0].service_s == pytest.approx(0.2)
    assert got.models[0].priority == "high"


@pytest.mark.parametrize(
    ("requests", "models", "says"),
    [
        ("t_s\n1\n", "model,footprint_gib,load_s\na,1,1\n", "no column model"),
        ("t_s,model\n1,b\n", "model,footprint_gib,load_s\na,1,1\n", "'b' is not in"),
        ("t_s,model\nx,a\n", "model,footprint_gib,load_s\na,1,1\n", "'x' is not a number"),
        ("t_s,model\n1,a\n", "model,footprint_gib,load_s\na,0,1\n", "above 0"),
        ("t_s,model\nnan,a\n", "model,footprint_gib,load_s\na,1,1\n", "'nan' is not a number"),
        ("t_s,model\n1,a\n", "model,footprint_gib,load_s,priority\na,1,1,top\n", "high, medium"),
        ("t_s,model\n", "model,footprint_gib,load_s\na,1,1\n", "no requests"),
    ],
)
def test_an_invalid_file_is_reported_with_line_and_reason(
    tmp_path: Path, requests: str, models: str, says: str
) -> None:
    (tmp_path / "t.csv").write_text(requests)
    (tmp_path / "m.csv").write_text(models)
    with pytest.raises(InputError, match=says):
        read_trace(tmp_path / "t.csv", tmp_path / "m.csv")


def test_devices_are_parsed_from_counts_and_sizes() -> None:
    assert parse_devices("2x80, 1x24") == (80 * GIB, 80 * GIB, 24 * GIB)
    for wrong in ("", "80", "2x", "0x80", "2x-1", "2xinf"):
        with pytest.raises(InputError, match="2x80"):
            parse_devices(wrong)
