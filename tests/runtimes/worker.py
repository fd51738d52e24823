"""A process that computes and reads as much as a test says, and otherwise stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from modelium.devices import processes
from runtimes.process import proc
from runtimes.process.supervisor import EngineProcess

CODE = """
import os, time
os.write(1, b"up")
while command := os.read(0, 32):
    word, number = command.split()
    if word == b"read":
        with open("/dev/zero", "rb", buffering=0) as zero:
            zero.read(int(number) - len(command))
    until = time.process_time() + (float(number) if word == b"compute" else 0)
    while time.process_time() < until:
        pass
    os.write(1, b"ok")
"""


class Worker:
    """Stopped while it does nothing, so that the kernel's counters do not move."""

    def __enter__(self) -> Worker:
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def engine(self, model: str = "m") -> EngineProcess:
        """Return it as the engine of ``model``."""
        started = processes.start_time(self.pid)
        assert started
        return EngineProcess(
            model=model, pid=self.pid, started=started, boot=proc.boot_id(), token=f"of {self.pid}"
        )

    def read(self, bytes_: int) -> None:
        """Read that many, the command included."""
        before = proc.bytes_read([self.pid])
        self._do(f"read {bytes_}")
        assert proc.bytes_read([self.pid]) - before == bytes_

    def compute(self, seconds: float) -> float:
        """Compute; return the seconds that it took by the kernel's clock."""
        before = proc.cpu_s([self.pid])
        self._do(f"compute {seconds}")
        return proc.cpu_s([self.pid]) - before

    def _do(self, command: str) -> None:
        assert self._process.stdin
        os.kill(self.pid, signal.SIGCONT)
        os.write(self._process.stdin.fileno(), command.encode())
        self._wait()

    def _wait(self) -> None:
        assert self._process.stdout
        assert os.read(self._process.stdout.fileno(), 2) in (b"up", b"ok")
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
