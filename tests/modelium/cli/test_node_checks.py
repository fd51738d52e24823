"""`modelium doctor` on one of several machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelium import __version__
from modelium.cli import node_checks
from modelium.cli.findings import Finding
from modelium.cli.node_checks import machines
from modelium.config import Config
from modelium.control.membership import node_secret
from modelium.models import NodeReport
from modelium.store import Store
from modelium.store.nodes import digest
from tests.postgresql import Server, set_time

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]


@pytest.fixture(autouse=True)
def _patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "PROBE_S", 60.0)


@contextmanager
def gateway(status: int = 200) -> Iterator[str]:
    """Yield the address of a server that answers each request with ``status``."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def settings(folder: Path, url: str, **orchestration: Any) -> Config:
    return Config.model_validate(
        {
            "store": {"url": url},
            "orchestration": {
                "node": "a",
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                "state_directory": str(folder / "state"),
                **orchestration,
            },
        }
    )


def found(config: Config) -> dict[str, Finding]:
    return {finding.what: finding for finding in machines(config)}


def joined(url: str, folder: Path, **others: NodeReport) -> None:
    """Have the machine with its state in ``folder`` join as a, and ``others`` after it."""
    (folder / "state").mkdir()
    own = digest(node_secret(folder / "state"))
    store = Store.open(url, now=time.time)
    store.nodes.join("a", identity=own, token=None, report=NodeReport(version=__version__))
    for name, report in others.items():
        store.nodes.join(name, identity=name, token=store.nodes.issue_token(), report=report)
    store.close()


def test_a_machine_that_has_joined_reaches_the_others(server: Server, tmp_path: Path) -> None:
    url = server.emptied()
    with gateway() as address:
        joined(url, tmp_path, b=NodeReport(version=__version__, address=address))
        checks = found(settings(tmp_path, url))
    assert {what: check.ok for what, check in checks.items()} == {
        "machines": True,
        "clock": True,
        "machine b": True,
    }
    assert checks["machines"].detail == "this one is a, of a, b"


def test_what_is_wrong_is_said_of_each_machine(server: Server, tmp_path: Path) -> None:
    url = server.emptied()
    with gateway() as gone:
        pass
    with gateway(status=403) as other:
        joined(
            url,
            tmp_path,
            alone=NodeReport(version=__version__),
            away=NodeReport(version=__version__, address=gone),
            odd=NodeReport(version="0.0.9", address=other),
        )
        checks = found(settings(tmp_path, url))
    assert [check for check in checks.values() if check.ok] == [checks["machines"], checks["clock"]]
    assert "no gateway.advertise" in checks["machine alone"].detail
    assert "no answer at" in checks["machine away"].detail
    assert "status 403" in checks["machine odd"].detail
    assert f"odd runs 0.0.9, this machine {__version__}" in checks["versions"].detail


def test_a_machine_that_has_not_joined_is_told_how(server: Server, tmp_path: Path) -> None:
    url = server.emptied()
    (tmp_path / "first").mkdir()
    assert "this will be the first" in found(settings(tmp_path, url))["machines"].detail
    joined(url, tmp_path / "first")
    new = found(settings(tmp_path, url, node="b"))["machines"]
    assert not new.ok
    assert "modelium nodes token" in new.detail
    assert found(settings(tmp_path, url, node="b", join_token="mdj_x"))["machines"].ok
    renamed = found(settings(tmp_path / "first", url, node="c"))["machines"]
    assert not renamed.ok
    assert "joined as a" in renamed.detail


def test_a_clock_that_is_off_and_a_store_that_is_away_are_said(
    server: Server, tmp_path: Path
) -> None:
    url = server.clocked()
    set_time(url, time.time() + 3600)
    clock = found(settings(tmp_path, url))["clock"]
    assert not clock.ok
    assert "behind the database's" in clock.detail
    (only,) = machines(settings(tmp_path, url.replace("host=", "host=/nowhere")))
    assert not only.ok
    assert only.detail.startswith("the store cannot be read")


def test_a_database_without_tables_is_no_error_of_the_command(
    server: Server, tmp_path: Path
) -> None:
    (only,) = machines(settings(tmp_path, server.database(migrated=False)))
    assert only.ok
    assert "makes the store's tables" in only.detail


def test_one_machine_has_nothing_to_check(tmp_path: Path) -> None:
    assert found(settings(tmp_path, f"sqlite:///{tmp_path}/m.db")) == {}
