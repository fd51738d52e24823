"""All log lines go to the file, and few to the console."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.cli import logs
from modelium.errors import InputError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


def speak() -> None:
    noisy = logging.getLogger("prefect.flow_runs")
    noisy.error("Finished in state Crashed()")
    logging.getLogger("modelium.control").info("a detail")
    logging.getLogger("flows.runner").warning("Prefect is down")
    try:
        raise ValueError("a bug")
    except ValueError:
        logging.getLogger("runtimes.vllm").exception("it failed")


def test_people_see_our_warnings_and_errors_in_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logs.configure(tmp_path / "state", level="warning")
    speak()
    shown = [text.partition("  ")[2] for text in capsys.readouterr().err.splitlines()]
    assert shown == [
        "warning: Prefect is down",
        "error: it failed (details in modelium.log)",
    ]
    kept = file.read_text()
    for part in ("Finished in state", "a detail", "Prefect is down", "ValueError: a bug"):
        assert part in kept


def test_verbose_shows_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path, level="info")
    speak()
    shown = capsys.readouterr().err
    assert "Finished in state" in shown and "a detail" in shown


@pytest.mark.parametrize("late", [False, True])
def test_a_librarys_own_console_is_taken_over(
    late: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("some_library")
    file = logs.configure(tmp_path, level="warning") if late else None
    library.addHandler(logging.StreamHandler(sys.stderr))
    library.propagate = False
    if file:
        logs.take_over()
    else:
        file = logs.configure(tmp_path, level="warning")
    library.error("noise")
    assert capsys.readouterr().err == ""
    assert "noise" in file.read_text()


def test_a_name_neither_commands_the_terminal_nor_passes_for_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logs.configure(tmp_path, level="warning")
    logging.getLogger("modelium.control").warning(
        "%s is bad", "x\n00:00:00  all is well\x1b]0;y\x07"
    )
    for text in (capsys.readouterr().err, file.read_text()):
        assert text.isascii() and not any(c != "\n" and not c.isprintable() for c in text)
        assert [line[:2] for line in text.splitlines()[1:]] == ["  "]


def test_a_state_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InputError, match=r"set orchestration\.state_directory"):
        logs.configure(tmp_path / "state", level="warning")


FULL = """
import logging, resource, signal, sys
from pathlib import Path
from modelium.cli import logs

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logs.LIMIT_BYTES = int(sys.argv[2])
file = logs.configure(Path(sys.argv[1]), level="warning")
log = logging.getLogger("modelium.control")
log.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for number in range(200):
    log.info("full %d %s", number, "x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("after")
logging.shutdown()
"""


@pytest.mark.parametrize("limit_bytes", [10 * 1024**2, 4090])
def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path, limit_bytes: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit_bytes)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    kept = "".join(file.read_text() for file in tmp_path.glob("modelium.log*"))
    assert "after" in kept.splitlines()[-1] or "after\n" in kept
    assert "Traceback" not in ran.stderr
    told = [line for line in ran.stderr.splitlines() if "log" in line]
    assert len(told) <= 1 and len(ran.stderr.splitlines()) == len(told)


def test_a_log_that_cannot_be_turned_over_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "LIMIT_BYTES", 500)
    file = logs.configure(tmp_path, level="warning")
    log = logging.getLogger("modelium.control")

    def refused(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", refused)
        for number in range(20):
            log.info("line %d %s", number, "x" * 50)
    log.info("after")
    assert "after" in file.read_text()
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and shown.count("No space left") == 1
