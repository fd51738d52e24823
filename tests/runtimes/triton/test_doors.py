"""The folder of the sockets of a Triton server of Modelium's own."""

from __future__ import annotations

from pathlib import Path

from modelium.config import Triton as TritonSection
from runtimes.triton.doors import Doors


def test_whatever_a_server_left_beside_its_sockets_the_next_one_starts(tmp_path: Path) -> None:
    doors = Doors.of(TritonSection(enabled=True, command=("tritonserver",)), tmp_path)
    assert doors.folder
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (doors.folder / "planted" / "deep").mkdir(parents=True)
    (doors.folder / "planted" / "deep" / "file").touch()
    (doors.folder / "planted" / "link").symlink_to(outside)
    (doors.folder / "link").symlink_to(outside)
    (doors.folder / "http").touch()
    doors.prepare()
    assert list(doors.folder.iterdir()) == []
    assert (outside / "kept").exists()
