"""Who is let through, by the headers of one request; and what the others are told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from typing import Any

import pytest

from modelium.errors import Unavailable
from modelium.gateway.access import strangers
from modelium.gateway.access.auth import (
    EXPIRED,
    MALFORMED,
    NOT_AUTHORIZED,
    REVOKED,
    UNKNOWN,
    AuthMiddleware,
    needed_scope,
)
from modelium.gateway.access.identities import SOONEST_S, Identities
from modelium.gateway.access.keyring import (
    CONCURRENCY_RETRY_S,
    REFRESH_S,
    KeyHolder,
    Keyring,
    key_holder,
)
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.forwarding import MOST_HOPS, Sender, sender
from modelium.gateway.problems import HttpProblem
from modelium.models import Priority
from modelium.models.api_keys import ApiKey, digest
from tests.fakes.clock import START, FakeClock

TOKEN = "a-token-that-is-long-enough-for-anybody"
KEY = "mdl_key"
CROSS = "cross-site browser requests are refused"
NOT_LOCAL = "without gateway.token, Host must name loopback; set gateway.token"


def key(**terms: Any) -> ApiKey:
    return ApiKey.model_validate({"id": "k", "name": "n", "created_at": 0.0, **terms})


class Door:
    """The middleware in front of an application that notes what reaches it."""

    def __init__(
        self,
        token: str | None = TOKEN,
        host: str = "127.0.0.1",
        nodes: dict[str, str] | None = None,
        **keys: ApiKey,
    ) -> None:
        self.clock = FakeClock()
        self.known = {digest(secret.encode()): node for secret, node in (nodes or {}).items()}
        self.nodes = None if nodes is None else Identities(read=self._known, clock=self.clock)
        self.stored = {digest(secret.encode()): one for secret, one in keys.items()}
        self.keys = Keyring(read=self._read, clock=self.clock, important_teams=frozenset())
        self.counts: Counter[str] = Counter()
        self.passed: list[Any] = []
        self.sent: list[Any] = []
        self._door = AuthMiddleware(
            app=self._app,
            token=token,
            keys=self.keys,
            nodes=self.nodes,
            host=host,
            strangers=Strangers(clock=self.clock, count=lambda why: self.counts.update([why])),
        )

    async def _read(self) -> dict[str, ApiKey]:
        return self.stored

    async def _known(self) -> dict[str, str]:
        return self.known

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed.append(scope)

    async def ask(self, path: str = "/v1/models", method: str = "GET", **headers: str) -> Any:
        """What the client is told: status, message, other headers; ``None``: it is let through."""
        await self.keys.refresh()
        if self.nodes is not None:
            await self.nodes.refresh()
        self.sent.clear()
        count = len(self.passed)
        named = {"host": "localhost", **headers}
        scope = {
            "method": method,
            "path": path,
            "client": ("10.0.0.1", 1),
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()],
        }

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self._door(scope, lambda: None, send)  # type: ignore[arg-type, return-value]
        if len(self.passed) > count:
            assert not self.sent
            return None
        error = json.loads(self.sent[1]["body"])["error"]
        said = error if isinstance(error, str) else error["message"]
        own = (b"content-type", b"content-length")
        others = [pair for pair in self.sent[0]["headers"] if pair[0] not in own]
        return self.sent[0]["status"], said, others


def challenged(bearer: str = "") -> list[tuple[bytes, bytes]]:
    return [
        (b"www-authenticate", f'Bearer realm="modelium"{bearer}'.encode()),
        (b"www-authenticate", b'Basic realm="modelium"'),
    ]


def invalid(description: str) -> list[tuple[bytes, bytes]]:
    return challenged(f', error="invalid_token", error_description="{description}"')


def lacking(scope: str) -> Any:
    challenge = f'Bearer realm="modelium", error="insufficient_scope", scope="{scope}"'
    told = f"this key does not have the scope {scope!r}"
    return 403, told, [(b"www-authenticate", challenge.encode())]


NOTHING_SHOWN = (401, NOT_AUTHORIZED, challenged())
FORMLESS = (401, MALFORMED, challenged())
STRANGE = (401, UNKNOWN, invalid("the token is not known"))


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("method", "authorization", "outcome"),
    [
        ("GET", f"Bearer {TOKEN}", None),
        ("POST", f"bEARER   {TOKEN} ", None),
        ("GET", f"Basic {TOKEN}", FORMLESS),
        ("GET", f"Token {TOKEN}", FORMLESS),
        ("GET", TOKEN, FORMLESS),
        ("GET", KEY, FORMLESS),
        ("GET", f"bearer:{TOKEN}", FORMLESS),
        ("GET", "", FORMLESS),
        ("GET", f"Bearer {TOKEN}x", STRANGE),
        ("GET", "Bearer", FORMLESS),
        ("GET", basic(f"anybody:{TOKEN}"), None),
        ("HEAD", basic(f":{TOKEN}").replace("Basic", "bASIC"), None),
        ("POST", basic(f"anybody:{TOKEN}"), FORMLESS),
        ("GET", basic(TOKEN), FORMLESS),
        ("GET", basic(f"{TOKEN}:anybody"), STRANGE),
        ("GET", basic(f"anybody:{TOKEN}").replace("Basic ", "Basic !"), FORMLESS),
        ("GET", "Basic x", FORMLESS),
    ],
)
async def test_the_token_is_taken_as_bearer_or_as_a_browsers_password(
    method: str, authorization: str, outcome: Any
) -> None:
    door = Door()
    assert await door.ask(method=method, authorization=authorization) == outcome
    reason = {UNKNOWN: "wrong", MALFORMED: "malformed"}.get(outcome[1] if outcome else "")
    assert door.counts == ({reason: 1} if reason else {})


async def test_who_shows_nothing_is_told_and_who_asks_for_life_is_answered() -> None:
    door = Door()
    assert await door.ask() == NOTHING_SHOWN
    assert door.counts == {"missing": 1}
    for path in ("/healthz", "/v2/health/live"):
        assert await door.ask(path, host="evil.example") is None
    assert await door.ask("/healthz/x") == NOTHING_SHOWN


@pytest.mark.parametrize(
    ("terms", "path", "outcome"),
    [
        ({}, "/v1/models", None),
        ({}, "/api/v1/models", lacking("admin")),
        ({}, "/hooks/ingest", lacking("ingest")),
        ({"scopes": ["ingest"]}, "/hooks/ingest", None),
        ({"scopes": ["ingest"]}, "/v1/models", lacking("infer")),
        ({"scopes": ["admin"]}, "/hooks/ingest", None),
        ({"expires_at": START}, "/v1/models", (401, EXPIRED, invalid("the token expired"))),
        ({"expires_at": START + 60}, "/v1/models", None),
        ({"revoked_at": 1.0}, "/v1/models", (401, REVOKED, invalid("the token was revoked"))),
    ],
)  # fmt: skip
async def test_a_key_opens_what_its_scopes_say(
    terms: dict[str, Any], path: str, outcome: Any
) -> None:
    for token in (TOKEN, None):
        door = Door(token, mdl_key=key(**terms))
        assert await door.ask(path, authorization=f"Bearer {KEY}") == outcome
        reason = {EXPIRED: "expired", REVOKED: "revoked"}.get(outcome[1] if outcome else "")
        assert door.counts == ({reason: 1} if reason else {})
        if outcome is None:
            holder = key_holder(door.passed[0])
            assert holder is not None and holder.key.id == "k"


async def test_without_a_token_a_key_is_checked_and_other_words_are_nothing() -> None:
    door = Door(None)
    assert await door.ask(authorization="Bearer mdl_unknown") == STRANGE
    assert await door.ask(authorization="Bearer anything") is None
    assert await door.ask() is None
    assert [key_holder(scope) for scope in door.passed] == [None, None]


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost", True),
        ("127.8.8.8:80", True),
        ("[::1]:80", True),
        ("LOCALHOST:1", True),
        ("gpu.lan:8000", True),
        ("lan", False),
        ("evil.example", False),
        ("[", False),
        ("", False),
    ],
)
async def test_without_a_token_the_host_is_this_machine(host: str, passes: bool) -> None:
    assert await Door(None, "gpu.lan").ask(host=host) == (None if passes else (403, NOT_LOCAL, []))
    own = {"authorization": f"Bearer {TOKEN}"}
    assert await Door(TOKEN, "gpu.lan").ask(host=host, **own) is None


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"origin": "http://localhost"}, True),
        ({"origin": "HTTPS://LocalHost"}, True),
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none", "origin": "http://localhost"}, True),
        ({"sec_fetch_site": "same-origin", "origin": "http://evil.example"}, False),
        ({"sec_fetch_site": "Cross-Site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
    ],
)
async def test_a_browser_may_ask_from_the_gateways_own_page(
    headers: dict[str, str], passes: bool
) -> None:
    for token in (None, TOKEN):
        door = Door(token)
        own = {"authorization": f"Bearer {TOKEN}", **headers}
        assert await door.ask(**own) == (None if passes else (403, CROSS, []))
        assert await door.ask("/", **own) is None
        assert door.counts == {}


async def test_too_many_guesses_are_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "FREE", 0)
    monkeypatch.setattr(strangers, "MOST_SLOWED_EACH", 0)
    told = await Door().ask(authorization="Bearer x")
    headers = [(b"retry-after", b"1"), (b"connection", b"close")]
    assert told == (429, "too many requests with wrong credentials from this address", headers)


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/models", "infer"),
        ("/v2", "infer"),
        ("/v2/models/m/infer", "infer"),
        ("/models/m/x", "infer"),
        ("/tokenize", "infer"),
        ("/hooks/ingest", "ingest"),
        ("/x/hooks/", "admin"),
        ("/x/v1/", "admin"),
        ("/", "admin"),
        ("/api/v1/models", "admin"),
    ],
)
def test_each_path_needs_one_scope(path: str, scope: str) -> None:
    assert needed_scope(path) == scope


# --- keys ----------------------------------------------------------------------------------------


def holder(clock: FakeClock, **terms: Any) -> KeyHolder:
    return KeyHolder(key=key(**terms), priority=None, clock=clock)


def test_a_key_may_use_its_models_and_scopes() -> None:
    clock = FakeClock()
    free, bound = holder(clock), holder(clock, models=["m"], scopes=["ingest"])
    assert (free.may_use("x"), bound.may_use("m"), bound.may_use("x")) == (True, True, False)
    assert (free.has("infer"), free.has("ingest"), bound.has("ingest")) == (True, False, True)
    assert holder(clock, scopes=["admin"]).has("infer")
    bound.check("m")
    with pytest.raises(HttpProblem) as problem:
        bound.check("x")
    assert (problem.value.status, str(problem.value)) == (403, "this key may not use x")


def refused(one: KeyHolder) -> tuple[int, str, float | None]:
    with pytest.raises(HttpProblem) as problem:
        one.enter()
    return problem.value.status, str(problem.value), problem.value.retry_after_s


def test_a_key_has_so_many_requests_at_once() -> None:
    one = holder(FakeClock(), max_concurrent=2)
    for _ in range(3):
        one.enter()
        one.enter()
        said = "this key already has 2 concurrent requests, its limit"
        assert refused(one) == (429, said, CONCURRENCY_RETRY_S)
        one.leave()
        one.enter()
        one.leave()
        one.leave()


@pytest.mark.parametrize(
    ("rate", "at_once", "wait_s"), [(2.0, 2, 30.0), (0.5, 1, 120.0), (120.0, 120, 0.5)]
)
def test_a_rate_allows_a_minutes_worth_and_says_when_the_next_one_may_come(
    rate: float, at_once: int, wait_s: float
) -> None:
    clock = FakeClock()
    one = holder(clock, requests_per_minute=rate)
    for _ in range(2):
        for _ in range(at_once):
            one.enter()
        said = f"this key is limited to {rate:g} requests per minute"
        status, told, left = refused(one)
        assert (status, told, left) == (429, said, pytest.approx(wait_s))
        clock.advance(wait_s / 4)
        assert refused(one)[2] == pytest.approx(wait_s * 3 / 4)
        clock.advance(wait_s * 3 / 4 + 1e-6)
        one.enter()
        assert refused(one)[2] == pytest.approx(wait_s, abs=1e-3)
        clock.advance(3600.0)


def test_a_request_beyond_the_concurrent_ones_takes_nothing_from_the_rate() -> None:
    one = holder(FakeClock(), max_concurrent=1, requests_per_minute=2)
    one.enter()
    assert refused(one)[2] == CONCURRENCY_RETRY_S
    one.leave()
    one.enter()


async def test_a_team_that_matters_ranks_its_keys_unless_they_have_a_class() -> None:
    door = Door(mdl_a=key(team="lab"), mdl_b=key(team="lab", priority="low"), mdl_c=key())
    await door.keys.refresh()
    found = [door.keys.find(secret) for secret in (b"mdl_a", b"mdl_b", b"mdl_c")]
    holders = [one for one in found if one is not None]
    assert [one.priority for one in holders] == [None, Priority.LOW, None]
    door.keys.rank(frozenset({"lab"}))
    assert [one.priority for one in holders] == [Priority.HIGH, Priority.LOW, None]
    door.stored[digest(b"mdl_d")] = key(team="lab")
    await door.keys.refresh()
    fresh = door.keys.find(b"mdl_d")
    assert fresh is not None and fresh.priority is Priority.HIGH
    assert door.keys.find(b"mdl_a") is holders[0]
    door.keys.rank(frozenset())
    assert [one.priority for one in (*holders, fresh)] == [None, Priority.LOW, None, None]


async def test_keys_are_read_again_and_again_and_kept_while_that_fails() -> None:
    clock = FakeClock()
    stored: dict[str, ApiKey] = {}
    outcomes: list[Any] = [Unavailable("locked"), RuntimeError("odd"), None, KeyboardInterrupt()]
    known: list[bool] = []

    async def read() -> dict[str, ApiKey]:
        known.append(ring.find(KEY.encode()) is not None)
        outcome = outcomes.pop(0) if clock.slept else None
        if outcome is not None:
            raise outcome
        return stored

    ring = Keyring(read=read, clock=clock, important_teams=frozenset())
    stored[digest(KEY.encode())] = key()
    await ring.refresh()
    with pytest.raises(KeyboardInterrupt):
        await ring.run()
    assert clock.slept == [REFRESH_S] * 4
    assert known == [False, True, True, True, True]


NODE = "mdn_secret-of-b"


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_a_node_may_infer_and_fetch_and_nothing_else(token: str | None) -> None:
    door = Door(token, nodes={NODE: "b"})
    shown = {"authorization": f"Bearer {NODE}"}
    for path in ("/v1/chat/completions", "/v2/models/m/infer", "/models/m/x", "/peer/files"):
        assert await door.ask(path, "POST", **shown) is None
        assert sender(door.passed[-1]) == Sender(node="b", hops=MOST_HOPS + 1)
        assert key_holder(door.passed[-1]) is None
    for path in ("/", "/metrics", "/api/v1/models", "/api/v1/keys", "/hooks/ingest", "/peerless"):
        status, *_ = await door.ask(path, "POST", **shown)
        assert status == 403, path


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_the_secret_of_no_node_is_an_unknown_key(token: str | None) -> None:
    for nodes in ({NODE: "b"}, {}):
        door = Door(token, nodes=nodes)
        status, told, _ = await door.ask(authorization="Bearer mdn_other")
        assert (status, told) == (401, UNKNOWN)
    assert door.counts == {"wrong": 1}


async def test_a_store_that_is_not_shared_knows_no_nodes() -> None:
    status, told, _ = await Door().ask(authorization=f"Bearer {NODE}")
    assert (status, told) == (401, UNKNOWN)


async def test_clients_cannot_call_themselves_nodes() -> None:
    door = Door(nodes={NODE: "b"}, **{KEY: key()})
    marks = {"x-modelium-forwarded": "1", "x-modelium-priority": "high"}
    for bearer in (TOKEN, KEY):
        assert await door.ask(authorization=f"Bearer {bearer}", **marks) is None
        assert sender(door.passed[-1]) is None
    assert await door.ask(authorization=f"Bearer {NODE}", **marks) is None
    assert sender(door.passed[-1]) == Sender(node="b", hops=1, priority=Priority.HIGH)


async def test_a_node_that_has_just_joined_is_known_soon_and_one_that_was_removed_is_not() -> None:
    clock, known = FakeClock(hurried=False), {digest(b"mdn_a"): "a"}
    reads = 0

    async def read() -> dict[str, str]:
        nonlocal reads
        reads += 1
        return dict(known)

    async def passes(seconds: float) -> None:
        await clock.asleep()
        clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)

    nodes = Identities(read=read, clock=clock)
    await nodes.refresh()
    running = asyncio.create_task(nodes.run())
    known[digest(b"mdn_b")] = "b"
    assert nodes.find(b"mdn_b") is None
    await passes(SOONEST_S)
    assert (nodes.find(b"mdn_b"), reads) == ("b", 2)
    for _ in range(100):  # guesses cannot have them read more often
        assert nodes.find(b"mdn_x") is None
    await passes(SOONEST_S * 0.9)
    assert reads == 2
    known.clear()
    await passes(SOONEST_S)
    await passes(REFRESH_S)
    assert nodes.find(b"mdn_a") is None
    running.cancel()
