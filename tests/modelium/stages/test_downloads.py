"""Models from object storage: a real S3 server, the real client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from modelium import analysis
from modelium.config import Config
from modelium.errors import ConfigError, InputError, Unavailable
from modelium.intake import object_storage
from modelium.intake.object_storage import NOTES, Download, check_url
from modelium.stages.downloads import check_source
from tests.modelium.conftest import World
from tests.object_storage import KEYS, s3_server
from tests.samples import tiny_onnx


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The bucket ``models``, with ``team/tiny`` in it; and another one with a secret."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    files = fsspec.filesystem(
        "s3", key="key", secret="secret", endpoint_url=server, skip_instance_cache=True
    )
    for name in ("models", "secret"):
        if files.exists(name):
            files.rm(name, recursive=True)
        files.mkdir(name)
    tiny_onnx(tmp_path / "source" / "tiny")
    (tmp_path / "source" / "tiny" / "README.md").write_text("A model.")
    files.put(str(tmp_path / "source" / "tiny"), "models/team/tiny", recursive=True)
    files.pipe("secret/other/file", b"secret")
    return files


def allowed(world: World, *sources: str) -> None:
    """Let ``world`` read below ``sources``, and load nothing."""
    world.rule(enabled=False)
    settings = world.services.config
    ingest = settings.ingest.model_copy(update={"sources": frozenset(sources)})
    config = settings.model_copy(update={"ingest": ingest})
    world.services = replace(world.services, config=config)


@pytest.mark.slow
async def test_a_model_is_taken_in_from_object_storage(
    world: World, bucket: Any, tmp_path: Path
) -> None:
    allowed(world, "s3://models/team")
    report = await world.launcher.ingest(path="s3://models/team/tiny", name="mine")
    assert (report.outcome, report.model) == ("registered", "mine"), report.reason
    record = world.store.model("mine")
    assert record.digest == analysis.digest(tmp_path / "source" / "tiny")
    downloads = world.services.repository.downloads
    assert not list(downloads.iterdir()) and not world.services.pending.all()
    bucket.pipe("models/team/bad/weights.bin", b"no model")
    report = await world.launcher.ingest(path="s3://models/team/bad")
    assert report.outcome == "rejected", report
    assert not list(downloads.iterdir())


@pytest.mark.slow
def test_what_was_copied_is_not_copied_again(bucket: Any, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    began: list[int] = []
    work = Download(url="s3://models/team/tiny", folder=folder)

    def stopping(arrived: int, _total: int) -> None:
        began.append(arrived)
        if len(list(folder.rglob(NOTES))):
            raise Unavailable("killed")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(object_storage, "AT_ONCE", 1)
        work.run(stopping)
    kept = {path.name: path.stat().st_ino for path in (folder / "tiny").iterdir()}
    bucket.pipe("models/team/tiny/extra.txt", b"new")
    arrived: list[int] = []
    path = Download(url="s3://models/team/tiny", folder=folder).run(
        lambda now, _all: arrived.append(now)
    )
    assert arrived[0] > 0
    whole = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
    assert set(whole) == {"README.md", "model.onnx", "extra.txt"}
    first = "README.md"  # in the order of names
    assert whole[first] == kept[first]
    bucket.pipe(f"models/team/tiny/{first}", b"a model!")  # of the same size
    path = Download(url="s3://models/team/tiny", folder=folder).run(lambda _now, _all: None)
    assert (path / first).read_bytes() == b"a model!"


@pytest.mark.slow
def test_a_single_file_is_a_model_too(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("models/one.gguf", b"GGUF")
    path = Download(url="s3://models/one.gguf", folder=tmp_path / "d").run(lambda _now, _all: None)
    assert path.name == "one.gguf" and path.read_bytes() == b"GGUF"


@pytest.mark.slow
def test_nothing_unsafe_or_too_large_is_copied(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "download"
    with pytest.raises(InputError, match="nothing is at"):
        Download(url="s3://models/team/missing", folder=folder).run(lambda _now, _all: None)
    with pytest.raises(OSError, match="GiB are free"):
        Download(url="s3://models/team/tiny", folder=folder, reserve_bytes=2**62).run(
            lambda _n, _a: None
        )
    bucket.pipe("models/bad/a\\b", b"x")
    with pytest.raises(InputError, match="unsafe name"):
        Download(url="s3://models/bad", folder=folder).run(lambda _now, _all: None)
    monkeypatch.setattr(object_storage, "MAX_FILES", 1)
    with pytest.raises(InputError, match="more than 1 files"):
        Download(url="s3://models/team/tiny", folder=folder).run(lambda _now, _all: None)


def test_credentials_and_endpoints_are_none_of_the_machines(tmp_path: Path) -> None:
    for endpoint in ("http://169.254.169.254", "http://metadata.google.internal", "file:///etc"):
        with pytest.raises(InputError):
            Download(url="s3://a/b", folder=tmp_path, environ={"AWS_ENDPOINT_URL": endpoint}).run(
                lambda _now, _all: None
            )
    assert Download(url="s3://a/b", folder=tmp_path, environ={})._files.anon
    with pytest.raises((ConfigError, ValueError), match="link-local"):
        Config.model_validate(
            {"ingest": {"sources": ["s3://a"], "s3_endpoint": "http://169.254.169.254"}}
        )


@pytest.mark.parametrize(
    "url",
    [
        "s3://models", "s3://models/teams", "s3://models/team/../../secret", "s3://secret/other",
        "s3://models/team/./x", "s3://models/team//x", "s3://models@evil/team/x", "http://models/team/x",
        "file:///etc/passwd", "s3://models/team/x?versionId=1", "s3://models/team/%2e%2e/x",
        "s3://models/team/[ab]*", "S3://models/team/x", "s3:///team/x",
    ],
)  # fmt: skip
def test_only_what_the_configuration_names_is_read(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url, ["s3://models/team"])


def test_a_source_includes_what_is_below_it(world: World) -> None:
    for url in ("s3://models/team", "s3://models/team/", "s3://models/team/a/b"):
        check_url(url, ["s3://models/team"])
    with pytest.raises(InputError, match=r"ingest\.sources"):
        check_source(world.services, "s3://models/team/a", bound=None)
    allowed(world, "s3://models")
    check_source(world.services, "s3://models/team/a", bound=None)
    with pytest.raises(InputError, match="ask an operator"):
        check_source(world.services, "s3://models/team/a", bound="blue")
