"""``modelium selftest`` that somebody stops: nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.integration.service import eventually

ENGINE = """#!/bin/sh
case "$*" in *--version*) echo "version: 6000 (fake)"; exit 0;; esac
echo $$ >> {pids}
exec sleep 600
"""


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,), (signal.SIGHUP,)],
    ids=lambda numbers: "+".join(number.name for number in numbers),
)
def test_nothing_is_left_of_a_self_test_that_is_stopped(
    tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    pids, engine, temporary = tmp_path / "pids", tmp_path / "llama-server", tmp_path / "tmp"
    temporary.mkdir()
    engine.write_text(ENGINE.format(pids=pids))
    engine.chmod(0o755)
    file = tmp_path / "modelium.yaml"
    settings = {
        "llama_cpp": {"enabled": True, "executable": str(engine)},
        "sandbox": {"writable": [str(tmp_path)]},  # the fake engine notes its process id there
    }
    file.write_text(yaml.safe_dump(settings))
    running = subprocess.Popen(
        [sys.executable, "-m", "modelium", "selftest", "-c", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        eventually(lambda: pids.exists() and pids.read_text(), shown=running.poll, within_s=60)
        (pid,) = map(int, pids.read_text().split())
        for number in numbers:
            running.send_signal(number)
        text, _ = running.communicate(timeout=60)
        assert not Path(f"/proc/{pid}").exists(), text
        assert not list(temporary.glob("modelium-selftest-*")), text
        assert "Traceback" not in text
        assert running.returncode == 128 + numbers[0], text
    finally:
        running.kill()
        running.wait()
        for pid in pids.read_text().split() if pids.exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
