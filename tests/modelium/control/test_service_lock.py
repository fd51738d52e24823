"""One service per state directory, and how it is stopped from outside."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modelium.control import service_lock
from modelium.errors import DeadlineExceeded, InputError

HOLDER = """
import pathlib, signal, sys, time
from modelium.control import service_lock
signal.signal(signal.SIGTERM, signal.default_int_handler if sys.argv[2] == "obeys" else signal.SIG_IGN)
with service_lock.hold(pathlib.Path(sys.argv[1])):
    try:
        print("held", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def holder(state: Path, on_sigterm: str = "obeys") -> subprocess.Popen[str]:
    """Start another process that holds the lock of ``state``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state), on_sigterm], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_service_on_the_same_state_is_refused_with_the_pid_of_the_first(
    tmp_path: Path,
) -> None:
    with holder(tmp_path) as other:
        with (
            pytest.raises(
                InputError, match=rf"process {other.pid}\); stop it with `modelium down`"
            ),
            service_lock.hold(tmp_path),
        ):
            raise AssertionError("never held twice")
        other.kill()
    with service_lock.hold(tmp_path):
        pass  # the lock of a killed process is free


def test_removing_the_file_lets_no_second_service_run(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        (tmp_path / service_lock.FILE).unlink()
        assert service_lock.is_held(tmp_path)
        with (
            pytest.raises(InputError, match="is already running"),
            service_lock.hold(tmp_path),
        ):
            raise AssertionError("never held twice")
        assert not (tmp_path / service_lock.FILE).exists()
        assert service_lock.stop(tmp_path) is True, "the kernel tells who holds it"
        assert other.wait(60) == 0


def test_stop_ends_the_holder_and_waits_for_it(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert service_lock.stop(tmp_path) is True
        assert other.wait(60) == 0
    assert service_lock.stop(tmp_path) is False


def test_a_process_that_does_not_hold_the_lock_is_never_signalled(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / service_lock.FILE).write_text(f"{stranger.pid}\n")
        assert service_lock.stop(tmp_path) is False
        assert stranger.poll() is None
        stranger.send_signal(signal.SIGTERM)


def test_a_service_that_does_not_stop_is_reported_by_pid(tmp_path: Path) -> None:
    with holder(tmp_path, "ignores") as other:
        with pytest.raises(DeadlineExceeded, match=str(other.pid)):
            service_lock.stop(tmp_path, within_s=0.5)
        other.kill()


def test_a_folder_has_one_service_whatever_their_state_directories_are(tmp_path: Path) -> None:
    field = "orchestration.incoming_directory"
    said = rf"^{field}: another Modelium service \(process {os.getpid()} on .*\) manages "
    with (
        service_lock.claim(tmp_path, field=field),
        pytest.raises(InputError, match=said),
        service_lock.claim(tmp_path, field=field),
    ):
        raise AssertionError("never held twice")
    with service_lock.claim(tmp_path, field=field):
        pass


def test_removing_the_claim_lets_no_second_service_manage_the_folder(tmp_path: Path) -> None:
    with service_lock.claim(tmp_path, field="f"):
        (tmp_path / service_lock.CLAIM).unlink()
        with (
            pytest.raises(InputError, match="another Modelium service"),
            service_lock.claim(tmp_path, field="f"),
        ):
            raise AssertionError("never held twice")


def test_a_folder_that_cannot_be_locked_is_managed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with service_lock.claim(tmp_path, field="f"):
        assert "cannot be locked" in caplog.text


def test_the_file_says_who_holds_the_lock_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "not" / "there"
    with service_lock.hold(state):
        pass
    (state / service_lock.FILE).write_text("12345678901234567890\nsomething older\n")
    with service_lock.hold(state):
        assert (state / service_lock.FILE).read_text() == f"{os.getpid()}\n"
        assert service_lock._pid(state) == os.getpid()


def test_a_claim_says_who_manages_the_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / service_lock.CLAIM).write_text("process 12345678901234567890 on another machine\n")
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    with service_lock.claim(tmp_path, field="f"):
        assert (tmp_path / service_lock.CLAIM).read_text() == f"{mine}\n"
        with pytest.raises(InputError) as told, service_lock.claim(tmp_path, field="f"):
            raise AssertionError("never held twice")
    assert str(told.value) == (
        f"f: another Modelium service ({mine}) manages {tmp_path}; "
        "stop it, or set f to a folder of its own"
    )


@pytest.mark.parametrize("name", [service_lock.FILE, service_lock.CLAIM])
def test_where_folders_cannot_be_locked_the_file_is(tmp_path: Path, name: str) -> None:
    """As on NFS."""
    with (tmp_path / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        taken = service_lock.hold(tmp_path)
        if name == service_lock.CLAIM:
            taken = service_lock.claim(tmp_path, field="f")
        else:
            assert service_lock.is_held(tmp_path)
        with pytest.raises(InputError), taken:
            raise AssertionError("never held twice")
    assert not service_lock.is_held(tmp_path)


def test_nothing_holds_what_is_not_there(tmp_path: Path) -> None:
    assert not service_lock.is_held(tmp_path / "not")
    assert not service_lock.is_held(tmp_path)
    assert not service_lock.stop(tmp_path / "not")


class Kills:
    """Records the signals that are sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: OSError | None = None) -> None:
        self.sent: list[tuple[int, int]] = []
        self._failure = failure
        monkeypatch.setattr(os, "kill", self._kill)
        monkeypatch.setattr(service_lock, "POLL_S", 0.001)

    def _kill(self, pid: int, number: int) -> None:
        self.sent.append((pid, number))
        if self._failure:
            raise self._failure


def test_a_service_that_stops_slowly_is_signalled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = Kills(monkeypatch)
    with service_lock.hold(tmp_path), pytest.raises(DeadlineExceeded) as told:
        service_lock.stop(tmp_path, within_s=0.02)
    me = os.getpid()
    assert kills.sent == [(me, signal.SIGTERM)]
    assert str(told.value) == (f"process {me} did not stop within 0 s; kill it with `kill -9 {me}`")


def test_a_service_that_ends_by_itself_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = Kills(monkeypatch, ProcessLookupError())
    with service_lock.hold(tmp_path), pytest.raises(DeadlineExceeded):
        service_lock.stop(tmp_path, within_s=0.02)
    assert kills.sent == [(os.getpid(), signal.SIGTERM)]


def test_a_service_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Kills(monkeypatch, PermissionError())
    said = rf"^process {os.getpid()} belongs to another user; run `modelium down` as that user$"
    with service_lock.hold(tmp_path), pytest.raises(InputError, match=said):
        service_lock.stop(tmp_path)


def test_a_folder_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"belongs to another user; run the command as that user$"):
        service_lock.is_held(tmp_path)


def test_a_holder_that_has_not_written_its_pid_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = Kills(monkeypatch)
    with service_lock.hold(tmp_path):
        for text in ("", "-1\n", "12x\n"):
            (tmp_path / service_lock.FILE).write_text(text)
            with pytest.raises(DeadlineExceeded):
                service_lock.stop(tmp_path, within_s=0.0)
    assert kills.sent == []


def test_the_kernel_tells_who_has_locked_a_folder(tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    with service_lock.hold(tmp_path):
        (tmp_path / service_lock.FILE).unlink()
        assert service_lock._pid(tmp_path) == os.getpid()
        assert service_lock._locker(tmp_path / "free") is None
