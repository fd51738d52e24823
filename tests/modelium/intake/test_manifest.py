"""What another machine says of its files is believed only where it can be true."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelium import analysis
from modelium.analysis.readers.folder import MAX_FILES
from modelium.errors import InputError
from modelium.intake import manifest
from modelium.intake.manifest import BadManifest, manifest_of, read_chunk, read_manifest


def said(*files: tuple[str, int], digest: str = "sha256:x") -> bytes:
    listed = [{"name": name, "size": size} for name, size in files]
    return json.dumps({"digest": digest, "files": listed}).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(said(("../../etc/passwd", 1)), id="leads out"),
        pytest.param(said(("/etc/passwd", 1)), id="absolute"),
        pytest.param(said(("a/../../b", 1)), id="leads out in the middle"),
        pytest.param(said(("a//b", 1)), id="empty part"),
        pytest.param(said(("a\x1b[2J", 1)), id="control characters"),
        pytest.param(said(("/".join("a" * 20), 1)), id="too deep"),
        pytest.param(said(("a", 1), ("a", 2)), id="twice"),
        pytest.param(said(("a", 1), ("a/b", 2)), id="file and folder"),
        pytest.param(said(("a", -1)), id="negative size"),
        pytest.param(said(("a", 2**63)), id="absurd size"),
        pytest.param(said(*((f"{n:06}", 0) for n in range(MAX_FILES + 1))), id="too many files"),
        pytest.param(said(), id="empty"),
        pytest.param(said(("a", 1), digest="sha256:y"), id="other content"),
        pytest.param(b"[" * 100_000, id="no such JSON"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(body: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(body, digest="sha256:x")


def test_chunks_cover_every_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 10)
    for name, size in (("b", 25), ("a/c", 10), ("empty", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(range(size)))
    digest = analysis.digest(tmp_path)
    body = manifest_of(tmp_path, digest=digest).model_dump_json().encode()
    found = read_manifest(body, digest=digest)
    assert [(c.name, c.begin, c.size) for c in found.chunks()] == [
        ("a/c", 0, 10), ("b", 0, 10), ("b", 10, 10), ("b", 20, 5),
    ]  # fmt: skip
    assert read_chunk(tmp_path, "b", 2) == bytes(range(20, 25))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "out", "pipe", "missing", "b/c", ""])
def test_only_files_of_the_model_are_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "b").write_text("b")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError):
        read_chunk(folder, name, 0)


def test_a_chunk_beyond_the_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    for index in (-1, 1, 2**60):
        with pytest.raises(InputError):
            read_chunk(tmp_path, "a", index)


def test_a_link_inside_the_model_is_read_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_text("content")
    (tmp_path / "weights").symlink_to("blobs/1")
    assert read_chunk(tmp_path, "weights", 0) == b"content"
