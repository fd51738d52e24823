"""Keys are revoked by id, or by a name that only one key has."""

from __future__ import annotations

import time

import pytest

from modelium.cli.keys import _id_of, lifetime_s
from modelium.cli.tables import _expiry
from modelium.errors import InputError
from tests.modelium.cli.conftest import Run

KNOWN = [{"id": "k1", "name": "ann"}, {"id": "k2", "name": "bob"}, {"id": "k3", "name": "bob"}]


@pytest.mark.parametrize(("key", "found"), [("k2", "k2"), ("ann", "k1")])
def test_a_key_is_found_by_id_or_name(key: str, found: str) -> None:
    assert _id_of(key, KNOWN) == found


@pytest.mark.parametrize(("key", "said"), [("bob", "k2, k3"), ("eve", "keys ls")])
def test_what_names_no_single_key_is_an_error(key: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _id_of(key, KNOWN)


@pytest.mark.parametrize(
    ("given", "seconds"), [("90m", 5400), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_a_lifetime_has_a_unit(given: str, seconds: float) -> None:
    assert lifetime_s(given) == seconds


@pytest.mark.parametrize(
    "given", ["", "d", "30", "0d", "-1d", "1.5d", "1y", "30d\n", "9999999d", "\u0661d"]
)
def test_what_is_no_lifetime_is_an_error(given: str) -> None:
    with pytest.raises(InputError, match="30d"):
        lifetime_s(given)


async def test_a_key_is_created_with_an_expiry_and_listed_with_it(run: Run) -> None:
    made = await run("keys", "create", "ann", "--expires", "30d")
    assert made.exit_code == 0, made.output
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() + 30 * 86400))
    listed = (await run("keys", "ls")).output
    assert day in listed
    assert "expires" in listed
    refused = await run("keys", "create", "a\x1b[2J")
    assert isinstance(refused.exception, InputError)
    assert "control characters" in str(refused.exception)
    assert "\x1b" not in str(refused.exception)


def test_an_expired_key_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _expiry(None) == "–"
    assert _expiry(1.0).endswith("(expired)")
    assert not _expiry(time.time() + 3600).endswith("(expired)")
