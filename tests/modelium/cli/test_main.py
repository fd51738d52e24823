"""The command line as a whole: help texts and exit codes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from modelium import __version__
from modelium.cli.main import app, main


def commands(command: Any, path: str = "modelium") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_parameter_has_a_help_text(path: str) -> None:
    command = COMMANDS[path]

    assert command.help
    for parameter in command.params:
        if parameter.name not in ("install_completion", "show_completion"):
            assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("spelled", ["version", "--version"])
def test_version_is_printed(spelled: str) -> None:
    assert CliRunner().invoke(app, [spelled]).output == f"{__version__}\n"


@pytest.mark.parametrize("command", ["up", "doctor"])
def test_an_empty_configuration_is_an_error_for_the_service_too(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "m.yaml"
    file.touch()

    assert run(monkeypatch, command, "--config", str(file)) in (1, 2)
    captured = capsys.readouterr()
    assert "the file is empty" in " ".join((captured.out + captured.err).split())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["modelium", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_invalid_configuration_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("gateway: {prot: 1}")

    assert run(monkeypatch, "ls", "--config", str(file)) == 2
    assert "did you mean port?" in capsys.readouterr().err


def test_unreachable_service_exits_with_3_and_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        f"orchestration: {{model_repository: {tmp_path}/r, incoming_directory: {tmp_path}/in}}"
    )
    with socket.socket() as bound:  # bound but not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODELIUM_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")

        assert run(monkeypatch, "ls", "--config", str(file)) == 3

    message = " ".join(capsys.readouterr().err.split())
    assert "cannot reach Modelium" in message and "modelium up" in message


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "orchestration: {model_repository: /proc/modelium/repository, "
        f"incoming_directory: {tmp_path}/in, state_directory: /proc/modelium/state}}\n"
        "llama_cpp: {enabled: true}\nprefect: {enabled: false}\n"
    )
    assert run(monkeypatch, "up", "--config", str(file)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ") and "orchestration.state_directory" in said
    assert "Traceback" not in said
