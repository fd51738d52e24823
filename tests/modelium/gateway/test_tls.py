"""The gateway over TLS: its own certificate, and those of other nodes."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium import config
from modelium.cli.client import trust
from modelium.errors import ConfigError
from modelium.gateway.certificates import Certificate, certificate_of, trust_of
from modelium.models.api_keys import digest
from tests.fakes.certificates import Authority
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Start, until
from tests.modelium.gateway.proxy.conftest import CHAT
from tests.modelium.gateway.proxy.test_forwarding import SECRET, route


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def section(**files: Any) -> config.Gateway:
    return config.Gateway.model_validate({name: str(file) for name, file in files.items()})


def tls(files: tuple[Path, Path], **others: Path) -> dict[str, str]:
    given = {"tls_certificate": files[0], "tls_key": files[1], **others}
    return {name: str(file) for name, file in given.items()}


async def known() -> dict[str, str]:
    return {digest(SECRET.encode()): "a"}


async def test_clients_are_served_over_tls_and_plain_ones_are_not(
    start: Start, engine: Upstream, authority: Authority
) -> None:
    files = authority.issue("gateway", "127.0.0.1")
    async with start(limits=tls(files)) as setup:
        url = setup.gateway.url
        assert url.startswith("https://127.0.0.1:")
        setup.board.open("m", engine.address("m"))
        trusted = ssl.create_default_context(cafile=authority.file)
        async with httpx.AsyncClient(base_url=url, verify=trusted) as http:
            body = {**CHAT, "stream": True}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert answer.text.rstrip().endswith("[DONE]")
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not (await reader.read()).startswith(b"HTTP/1.1 2")
        writer.close()
        with pytest.raises(httpx.ConnectError):
            await setup.http.get(f"{url}/healthz")  # it trusts the system's authorities


async def test_a_node_is_reached_over_tls_with_its_certificate_checked(
    start: Start,
    engine: Upstream,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = authority.issue("b", "127.0.0.1")
    other_host = authority.issue("other-host", "b.example")
    other_ca = Authority(tmp_path, "another").issue("other-ca", "127.0.0.1")
    mine: dict[str, Any] = {"limits": {"tls_ca": str(authority.file)}}
    async with (
        start(identities=known, limits=tls(good)) as b,
        start(identities=known, limits=tls(other_host)) as wrong_host,
        start(identities=known, limits=tls(other_ca)) as wrong_ca,
        start(**mine) as a,
    ):
        for one in (b, wrong_host, wrong_ca):
            one.board.open("m", engine.address("m"), version=3)
        a.board.open("m", route(wrong_host.port, tls=True), version=3)
        asking = asyncio.create_task(a.http.post("/v1/completions", json=CHAT))
        for setup in (wrong_ca, wrong_host):
            await until(lambda: a.board.traffic.pending("m") == 1)
            a.listener.unreached.clear()
            a.board.open("m", route(setup.port, tls=True), version=3)
            await until(lambda: a.listener.unreached == ["m"])
        told = [line for line in caplog.messages if "gateway.tls_ca has" in line]
        assert told, "another authority"
        assert not any("mismatch" in line for line in told), "another host"
        assert engine.seen == [], "nothing is sent to a gateway that cannot prove who it is"
        a.board.open("m", route(b.port, tls=True), version=3)
        assert (await asking).status_code == 200
        assert (await a.http.post("/v1/completions", json=CHAT)).status_code == 200
        assert a.gateway._client.connections == 1, "the connection is kept"


async def test_a_new_certificate_serves_new_connections(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue("gateway", "127.0.0.1")
    newer = Authority(tmp_path, "newer")
    async with start(limits=tls(files)) as setup:
        certificate = setup.gateway._certificate
        assert certificate is not None

        async def asked(by: Authority) -> int:
            trusted = ssl.create_default_context(cafile=by.file)
            async with httpx.AsyncClient(verify=trusted) as http:
                return (await http.get(f"{setup.gateway.url}/healthz")).status_code

        assert await asked(authority) == 200
        assert not certificate.reload(), "nothing has changed"
        replaced = newer.issue("new", "127.0.0.1")
        shutil.copy(replaced[0], files[0])  # half of it: the key is still the old one's
        assert not certificate.reload()
        assert await asked(authority) == 200
        shutil.copy(replaced[1], files[1])
        assert certificate.reload()
        assert await asked(newer) == 200
        with pytest.raises(httpx.ConnectError):
            await asked(authority)
        os.unlink(files[0])
        assert not certificate.reload()
        assert await asked(newer) == 200


def test_what_cannot_be_served_is_named_at_the_start(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("one", "a"), authority.issue("other", "a")
    locked = authority.issue("locked", "a", password=b"secret")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    cases = [
        ({"tls_key": one[1]}, "gateway.tls_key: there is no gateway.tls_certificate"),
        ({"tls_certificate": tmp_path / "no"}, "gateway.tls_certificate: cannot read .*no "),
        ({"tls_certificate": one[0], "tls_key": tmp_path}, "gateway.tls_key: cannot read"),
        (
            {"tls_certificate": one[0], "tls_key": other[1]},
            "tls_key: the key in .*other.key is not",
        ),
        ({"tls_certificate": one[0]}, "no certificate and its key"),
        ({"tls_certificate": empty, "tls_key": one[1]}, "no certificate and its key"),
        ({"tls_certificate": locked[0], "tls_key": locked[1]}, "tls_key: .* has a password"),
    ]
    for files, told in cases:
        with pytest.raises(ConfigError, match=told):
            certificate_of(section(**files))
    for file, told in ((empty, "has no certificates"), (tmp_path / "no", "cannot read")):
        with pytest.raises(ConfigError, match=rf"gateway\.tls_ca: .*{told}"):
            trust_of(section(tls_ca=file))
    assert certificate_of(section()) is None


def test_a_certificate_that_ends_is_noticed(authority: Authority) -> None:
    now = datetime.now(UTC)
    for days, told in ((60, None), (3, "expires on"), (-1, "expired on")):
        files = authority.issue("one", "a", days=days)
        found = Certificate(certificate=files[0], key=files[1]).notice(now)
        assert (found is None) == (told is None)
        assert told is None or told in (found or "")


async def test_commands_check_their_own_gateway_by_its_file_and_others_by_the_authority(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue("gateway", "b.example")
    stranger = Authority(tmp_path, "stranger").issue("x", "127.0.0.1")
    async with start(limits=tls(files)) as setup:
        url = f"{setup.gateway.url}/healthz"

        async def asked(gateway: config.Gateway, *, own: bool) -> int:
            async with httpx.AsyncClient(verify=trust(url, gateway, own=own)) as http:
                return (await http.get(url)).status_code

        mine = section(tls_certificate=files[0], tls_key=files[1], tls_ca=authority.file)
        assert await asked(mine, own=True) == 200
        for wrong, own in ((section(tls_certificate=stranger[0]), True), (mine, False)):
            with pytest.raises(httpx.ConnectError):
                await asked(wrong, own=own)
    with pytest.raises(ConfigError, match=r"gateway\.tls_ca: cannot read"):
        trust("https://x", section(tls_ca=tmp_path / "no"), own=False)
    assert trust("http://x", mine, own=True) is True
