"""What the engines of all runtimes may not read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelium.app.drivers import secrets
from modelium.config import Config
from runtimes.process import confine
from runtimes.process.sandbox import Sandbox


@pytest.mark.skipif(not confine.abi(), reason="the kernel has no Landlock")
def test_engines_read_neither_the_configuration_nor_the_store(tmp_path: Path) -> None:
    file, store = tmp_path / "etc/own.yaml", tmp_path / "db/store.db"
    key = tmp_path / "tls/key.pem"
    for path in (file, store, key, tmp_path / "db/store.db-wal"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    config = Config.model_validate(
        {
            "orchestration": {
                "model_repository": tmp_path / "repository",
                "incoming_directory": tmp_path / "incoming",
                "state_directory": tmp_path / "state",
            },
            "store": {"url": f"sqlite:///{store}"},
            "gateway": {"tls_certificate": tmp_path / "tls/certificate.pem", "tls_key": key},
        }
    )
    code = "import sys\nfor path in sys.stdin.read().split(): print(open(path).read())"
    argv, variables, work = Sandbox(mode="required", hidden=secrets(config, file)).wrapped(
        (sys.executable, "-c", code), {}, work=tmp_path / "state/vllm/work/m"
    )
    for path in (file, store, key, tmp_path / "db/store.db-wal"):
        done = subprocess.run(
            argv,
            env=variables,
            cwd=work,
            input=str(path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "PermissionError" in done.stderr
