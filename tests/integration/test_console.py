"""What `modelium up` prints, its configuration changed while it runs, and clients that would
exhaust its descriptors or its memory. No engine is started."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx
import psutil
import pytest
import yaml

from tests.integration.service import Service, laid_over
from tests.samples import risky_onnx

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SETTINGS = {
    # It is there, and no test starts it.
    "vllm": {"enabled": True, "executable": "/bin/true", "base_port": 0},
    "prefect": {"enabled": False},
}

OPEN_FILES = 1024
"""What many systems allow."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("quiet"), settings=SETTINGS, open_files=OPEN_FILES)
    try:
        running.start()
        running.eventually(lambda: "drop models into" in running.printed())
        yield running
    finally:
        running.down()


def edit(service: Service, **changes: object) -> None:
    whole = laid_over(laid_over(service.base(), SETTINGS), changes)
    service.config.write_text(yaml.safe_dump(whole))


def status(service: Service) -> dict[str, list[str]]:
    url = f"{service.gateway}/api/v1/status"
    return dict(httpx.get(url, trust_env=False, timeout=60).json())


def test_the_start_is_summed_up(quiet: Service) -> None:
    words = {text.split()[0]: text for text in quiet.printed().splitlines() if text[:2] == "  "}
    assert quiet.gateway in words["gateway"]
    assert "vllm" in words["runtimes"]
    assert "GiB" in words["devices"]
    assert str(quiet.state / "modelium.log") in words["log"]
    assert str(quiet.config) in quiet.printed()


def test_each_event_is_one_line_and_the_rest_is_in_the_log(quiet: Service) -> None:
    quiet.put_in("risky", write=lambda folder: risky_onnx(folder, "x.pkl"))
    quiet.eventually(lambda: "drop risky: rejected, " in quiet.printed())
    told = quiet.printed().partition("drop models into")[2].splitlines()[1:]
    assert told
    assert [text for text in told if not re.match(r"\d\d:\d\d:\d\d  \S", text)] == []
    assert "alembic" in quiet.full_log()
    assert "alembic" not in quiet.printed()


def test_a_changed_file_takes_effect_and_names_what_does_not(quiet: Service) -> None:
    edit(quiet, gateway={"port": 8765, "aliases": {"chat": "gpt2"}})
    quiet.eventually(lambda: "configuration reloaded: " in quiet.printed())
    assert "gateway.aliases.chat: not set → gpt2" in quiet.printed()
    assert status(quiet)["notices"] == ["gateway.port needs a restart: still 0"]


def test_an_invalid_file_is_reported_and_changes_nothing(quiet: Service) -> None:
    edit(quiet)
    quiet.cli("reload")
    quiet.config.write_text("gateway: {prot: 1}\n")
    quiet.eventually(lambda: any("did you mean port?" in n for n in status(quiet)["notices"]))
    assert "error: the configuration is invalid" in quiet.printed()
    edit(quiet)
    assert quiet.cli("reload")["changed"] == []
    assert status(quiet)["notices"] == []


def test_a_hangup_reads_the_file(quiet: Service) -> None:
    assert quiet.process is not None
    edit(quiet, models={"gpt2": {"pinned": True}})
    quiet.process.send_signal(signal.SIGHUP)
    quiet.eventually(lambda: "models.gpt2.pinned: false → true" in quiet.printed())
    assert quiet.process.poll() is None


def test_a_store_that_another_process_has_locked_is_read_and_heals(quiet: Service) -> None:
    with closing(sqlite3.connect(quiet.state / "modelium.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with httpx.Client(base_url=quiet.gateway, trust_env=False, timeout=60) as http:
            for page in ("/", "/api/v1/models", "/api/v1/status", "/api/v1/events", "/v1/models"):
                assert http.get(page).status_code == 200, page
            refused = http.post("/api/v1/keys", json={"name": "alice"})
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"]
    error = refused.json()["error"]
    assert error["reason"] == "store-locked"
    assert "is locked by another process; Modelium goes on by itself" in error["message"]
    quiet.cli("keys", "create", "alice")


@contextlib.contextmanager
def clients(service: Service, count: int) -> Iterator[list[socket.socket]]:
    """Connect ``count`` times; the gateway may close some for others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    url = httpx.URL(service.gateway)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((url.host, url.port or 0), timeout=30))
            for _ in range(count)
        ]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def looks(service: Service, series: str) -> float:
    found = re.search(rf"^modelium_{series} (\S+)$", service.exposed(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_half_open_requests_take_no_descriptors_of_the_service(quiet: Service) -> None:
    failed = looks(quiet, "look_failures_total")
    with clients(quiet, OPEN_FILES) as strangers:
        for stranger in strangers:
            with contextlib.suppress(OSError):  # it gave way already
                stranger.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        assert status(quiet)
        past = looks(quiet, "look_duration_seconds_count")
        quiet.eventually(lambda: looks(quiet, "look_duration_seconds_count") >= past + 3)
        quiet.put_in("late", write=lambda folder: risky_onnx(folder, "x.pkl"))
        quiet.eventually(lambda: "drop late: rejected, " in quiet.printed())
    assert looks(quiet, "look_failures_total") == failed
    assert "Too many open files" not in quiet.log()


def answered(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(12) in (b"HTTP/1.1 429", b"")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_unfinished_bodies_stay_within_the_bound_of_memory(quiet: Service) -> None:
    assert quiet.process is not None
    service = psutil.Process(quiet.process.pid)
    before, size = service.memory_info().rss, 60 * 1024**2
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    )
    most, kept = before, 0
    with clients(quiet, 20) as senders:
        for sender in senders:
            # All but the end. The rest of what is refused is read, and thrown away.
            with contextlib.suppress(ConnectionError):
                sender.sendall(head.encode() + bytes(size - 1))
            kept += not answered(sender)
            most = max(most, service.memory_info().rss)
        assert status(quiet)
    assert 0 < kept <= 9, "half of 1 GiB"
    assert most - before < 768 * 1024**2
