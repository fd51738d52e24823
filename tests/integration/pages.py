"""Follow a Markdown page as a stranger does: its shell blocks in order, in an empty environment.

A comment above a block says what else holds for it:

- ``<!-- test: prints TEXT -->``: its output contains TEXT.
- ``<!-- test: until TEXT -->``: it is repeated until its output does.
- ``<!-- test: background -->``: it runs on, as in a terminal of its own, until the end.
- ``<!-- test: wheel -->``, ``<!-- test: checkout -->``: only in that way of installing.
- ``<!-- test: remove -->``: what README's table says as well.
- ``<!-- test: skip (WHY) -->``: not run.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- test: (?P<rule>.*?) -->\n)?```sh\n(?P<text>.*?)```", re.DOTALL)
ROW = re.compile(r"^\| (?!to \|)[^|]+ \| (?P<cell>.*) \|$", re.MULTILINE)
COMMAND = re.compile(r"`((?:eval \"\S+ [^\"]*\" && )?(?:modelium|prefect) [^`]*)`")

WITHIN_S = 240.0
"""For whatever a stranger waits for; only a failure waits that long."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of shell commands."""

    text: str
    rule: str = ""
    """`prints`, `until`, `background`, `wheel`, `checkout`, `remove`, or nothing."""
    argument: str = ""


def blocks(page: str, *, installed: str) -> Iterator[Block]:
    """Yield the blocks of ``page`` that hold for ``installed``: wheel or checkout."""
    for match in BLOCK.finditer(page):
        rule, _, argument = (match["rule"] or "").partition(" ")
        if rule == "skip" or (rule in ("wheel", "checkout") and rule != installed):
            continue
        yield Block(text=match["text"], rule=rule, argument=argument)


def commands(page: str) -> list[str]:
    """Return the commands in the second column of the page's tables, in order."""
    return [found for row in ROW.finditer(page) for found in COMMAND.findall(row["cell"])]


class Stranger:
    """Somebody at a shell; what a block exports and the folder it ends in hold for the next."""

    def __init__(
        self, home: Path, *, cwd: Path, environ: Mapping[str, str], ports: Mapping[str, str]
    ) -> None:
        """``ports``: what pages write → what is free here."""
        home.mkdir(exist_ok=True)
        self.home = home
        self._memory, self._cwd = home / ".environment", home / ".cwd"
        self._memory.touch()
        self._cwd.write_text(f"{cwd}\n")
        self._environ = {"HOME": str(home), **environ}
        self._ports = ports
        self._terminals: list[tuple[subprocess.Popen[bytes], Path]] = []

    def do(self, block: Block) -> str:
        """Run ``block`` as its rule says and return its output; fail with the output."""
        if block.rule == "background":
            return self._open_terminal(block.text)
        deadline = time.monotonic() + WITHIN_S
        while True:
            output = self.type(block.text)
            if block.rule not in ("prints", "until") or block.argument in output:
                return output
            assert block.rule == "until" and time.monotonic() < deadline, (
                f"{block.text}\nprints no {block.argument!r} but:\n{output}\n{self.shown()}"
            )
            time.sleep(0.5)

    def type(self, text: str) -> str:
        """Run ``text``; every command has to succeed."""
        done = subprocess.run(
            ["bash", "-c", f"{self._resumed(text)}\nexport -p >{self._memory}; pwd >{self._cwd}\n"],
            env=self._environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * WITHIN_S,
        )
        assert done.returncode == 0, f"{text}\nexits with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def shown(self) -> str:
        """Return what the terminals in the background show."""
        return "\n".join(log.read_text()[-8000:] for _, log in self._terminals)

    def leave(self) -> None:
        """Press Ctrl-C in each terminal, and wait for what runs there."""
        for process, _ in self._terminals:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(120)

    def _open_terminal(self, text: str) -> str:
        log = self.home / f"terminal-{len(self._terminals)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", self._resumed(f"exec {text}")],
                env=self._environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._terminals.append((process, log))
        deadline = time.monotonic() + WITHIN_S
        while "drop models into" not in (output := log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, output
            time.sleep(0.2)
        return output

    def _resumed(self, text: str) -> str:
        for written, free in self._ports.items():
            text = text.replace(f":{written}", f":{free}")
        return f'. {self._memory}\ncd "$(cat {self._cwd})"\nset -euo pipefail\n{text}'
