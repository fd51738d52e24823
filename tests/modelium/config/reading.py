"""What the tests of reading a configuration share."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.config.loading import Effective, load, load_effective
from modelium.errors import ConfigError


def wrong(text: str, **environ: str) -> list[str]:
    """The lines of the error that a file with ``text`` gives, without the file's name."""
    Path("m.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(Path("m.yaml"), environ)
    return [line.removeprefix("m.yaml: ") for line in str(caught.value).splitlines()]


def read(text: str, **environ: str) -> Effective:
    Path("m.yaml").write_text(text, encoding="utf-8")
    return load_effective(Path("m.yaml"), environ)
