"""``modelium rm`` and its neighbours: what they send, and when they ask."""

from __future__ import annotations

import pytest

from modelium.cli.versions import _parsed
from modelium.errors import InputError


def test_a_reference_names_a_model_or_one_version() -> None:
    assert _parsed("gpt2") == ("gpt2", None)
    assert _parsed("gpt2@12") == ("gpt2", 12)


@pytest.mark.parametrize("written", ["gpt2@", "gpt2@two", "gpt2@-1", "gpt2@²", "gpt2@1234567890"])
def test_a_version_is_a_number(written: str) -> None:
    with pytest.raises(InputError, match="write gpt2@2"):
        _parsed(written)
