"""Paths and forms at their edges, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelium.gateway import multipart
from modelium.gateway.multipart import (  # fmt: skip
    MAX_BOUNDARY,
    MAX_HEAD,
    MAX_PARTS,
    MAX_VALUE,
    form_fields,
    renamed_form,
    spans,
)
from modelium.gateway.problems import HttpProblem
from modelium.gateway.routes import Route, fields_of, match, model_of, outgoing
from modelium.models import Upstream

CHAT = "/v1/chat/completions"
LONG = "a" * 128


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", CHAT, Route(api="openai", model=None, rest=CHAT)),
        ("GET", CHAT, None),
        ("POST", "/v1/audio/translations", Route(api="openai", model=None, rest="/v1/audio/translations", form=True)),
        ("GET", "/v1/models", None),
        ("GET", "/v2/models/m", Route(api="kserve", model="m", rest="")),
        ("POST", "/v2/models/m/infer", Route(api="kserve", model="m", rest="/infer")),
        ("GET", "/v2/models/m/versions/3/config", Route(api="kserve", model="m", rest="/versions/3/config")),
        ("PUT", "/v2/models/m", None),
        ("POST", "/v2/models/m/load", None),
        ("GET", "/v2/models//infer", None),
        ("GET", "/v2/models/m/ready", None),
        ("GET", f"/v2/models/{LONG}", Route(api="kserve", model=LONG, rest="")),
        ("GET", f"/v2/models/{LONG}a", None),
        ("GET", "/models/m", Route(api="generic", model="m", rest="/")),
        ("DELETE", "/models/m/", Route(api="generic", model="m", rest="/")),
        ("GET", "/models/m:12/a//b", Route(api="generic", model="m:12", rest="/a//b")),
        ("GET", "/models/m:1234567890/a", None),
        ("GET", "/models/.m/a", None),
        ("GET", "/models/m/..", None),
        ("GET", "/models/m/a/./b", None),
        ("GET", "/models/m/..a", Route(api="generic", model="m", rest="/..a")),
        ("POST", f"/models/m{CHAT}", Route(api="openai", model="m", rest=CHAT)),
        ("GET", f"/models/m{CHAT}", Route(api="generic", model="m", rest=CHAT)),
        ("POST", "/models/m/v1/audio/translations", Route(api="openai", model="m", rest="/v1/audio/translations", form=True)),
        ("GET", "/healthz", None),
        ("GET", "/x/v2/models/m", None),
    ],
)  # fmt: skip
def test_a_path_belongs_to_an_api_and_a_model(method: str, path: str, route: Route | None) -> None:
    assert match(method, path, path.encode()) == route


def test_an_encoded_path_is_read_by_its_parts() -> None:
    assert match("GET", "/models/m", b"/models%2Fm") is None
    found = match("GET", "/models/m/a/b", b"/models/%6d/a%2Fb")
    assert found == Route(api="generic", model="m", rest="/a%2Fb")
    assert match("GET", "/models/m/../x", b"/models/m/%2e%2e/x") is None


def at(*apis: str, name: str = "served", paths: frozenset[str] | None = None) -> Upstream:
    return Upstream(host="h", port=1, served_name=name, apis=frozenset(apis), paths=paths)


def sent(path: str, body: bytes, upstream: Upstream, **given: Any) -> tuple[str, bytes]:
    route = match("POST", path, path.encode())
    assert route is not None
    made = outgoing(route, "m", upstream, body, fields_of(route, body), **given)
    return made.path, made.body


def refused(path: str, upstream: Upstream) -> str:
    with pytest.raises(HttpProblem) as problem:
        sent(path, b"{}", upstream)
    assert (problem.value.status, problem.value.reason) == (400, "wrong-api")
    return str(problem.value)


def test_an_engine_gets_its_own_name() -> None:
    assert sent(CHAT, b'{"model":"served"}', at("openai")) == (CHAT, b'{"model":"served"}')
    assert sent(CHAT, b'{"model":"m"}', at("openai")) == (CHAT, b'{"model":"served"}')
    assert sent(f"/models/m{CHAT}", b"{}", at("openai")) == (CHAT, b'{"model":"served"}')
    assert sent("/v2/models/m/infer", b"x", at("kserve")) == ("/v2/models/served/infer", b"x")
    assert sent("/models/m/a", b"x", at("generic"), max_tokens=3) == ("/a", b"x")
    few = at("openai", paths=frozenset({CHAT}))
    assert sent(CHAT, b"{}", few)[0] == CHAT
    assert sent("/models/m/a", b"", at("generic", paths=frozenset()))[0] == "/a"


def test_what_an_engine_does_not_serve_is_told_with_what_it_does() -> None:
    few = at("openai", "kserve", "generic", paths=frozenset({"/b", "/a"}))
    offers = "it offers /a, /b, /v2/models/m/infer, the engine's own routes below /models/m/"
    assert refused(CHAT, few) == f"m does not serve {CHAT}; {offers}"
    assert refused("/v2/models/m/infer", at()) == (
        "m does not serve the KServe v2 API; it offers nothing"
    )
    assert refused("/models/m/x", at("kserve")) == (
        "m does not serve routes of its engine's own; it offers /v2/models/m/infer"
    )
    every = refused("/models/m/x", at("openai"))
    assert "it offers /classify, /detokenize, " in every


@pytest.mark.parametrize(
    ("path", "body", "bound"),
    [
        (CHAT, {}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 1}, None),
        (CHAT, {"max_completion_tokens": None}, "max_tokens"),
        ("/v1/responses", {"max_tokens": 1}, "max_output_tokens"),
        ("/v1/responses", {"max_output_tokens": 1}, None),
        ("/v1/embeddings", {}, None),
    ],
)
def test_an_answer_is_bounded_unless_the_request_does(
    path: str, body: dict[str, Any], bound: str | None
) -> None:
    text = json.dumps({"model": "served", **body}).encode()
    _, made = sent(path, text, at("openai"), max_tokens=7)
    assert json.loads(made) == {"model": "served", **body, **({bound: 7} if bound else {})}
    assert sent(path, text, at("openai"))[1] == text


@pytest.mark.parametrize("content", [{}, {"model": ""}, {"model": 1}, {"model": None}])
def test_a_body_names_a_model(content: dict[str, object]) -> None:
    assert model_of({"model": "m"}) == "m"
    with pytest.raises(HttpProblem, match="must name a model") as problem:
        model_of(content)
    assert problem.value.status == 400


def test_only_bodies_of_openais_api_are_read() -> None:
    assert fields_of(Route(api="kserve", model="m", rest=""), b"\xff") is None
    assert fields_of(Route(api="openai", model=None, rest=CHAT), b'{"model":"m","x":1}') == {
        "model": "m"
    }


# --- forms ---------------------------------------------------------------------------------------

MODEL = b'content-disposition: form-data; name="model"'


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"--B") -> bytes:
    lines = (boundary + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n" for head, value in parts)
    return b"".join(lines) + boundary + b"--\r\n"


def bad(body: bytes) -> str:
    with pytest.raises(HttpProblem) as problem:
        spans(body)
    assert (problem.value.status, problem.value.reason) == (400, "bad-form")
    return str(problem.value).removeprefix("the request body is not a multipart form: ")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (MODEL, "model"),
        (b"X: 1\r\nCONTENT-Disposition:form-data;NAME=model\r\nY: 2", "model"),
        (b'content-disposition: form-data; name="a \\" b"', 'a \\" b'),
        (b"content-disposition: form-data; name=\xc3\xa9; filename=x", "é"),
        (b"content-disposition: form-data; name=\xff", "\ufffd"),
        (b"content-disposition: form-data", ""),
        (b"x-content-disposition: form-data; name=a", None),
    ],
)
def test_a_part_is_known_by_its_name(head: bytes, name: str | None) -> None:
    body = form((head, b"v\r\n1"))
    found = {key: body[start:end] for key, (start, end) in spans(body).items()}
    assert found == ({} if name is None else {name: b"v\r\n1"})


def test_the_first_of_equal_names_counts_and_two_models_are_refused() -> None:
    one = b'content-disposition: form-data; name="a"'
    body = form((one, b"1"), (MODEL, b"m"), (one, b"2"))
    assert form_fields(body) == {"a": "1", "model": "m", "stream": False}
    assert renamed_form(body, "é") == form((one, b"1"), (MODEL, "é".encode()), (one, b"2"))
    assert renamed_form(form((one, b"1")), "x") == form((one, b"1"))
    assert bad(form((MODEL, b"1"), (MODEL, b"2"))) == "it has two fields `model`"


@pytest.mark.parametrize(
    ("value", "streams"), [(b"true", True), (b"TRUE", True), (b"1", True), (b"0", False), (b"", False)]
)  # fmt: skip
def test_a_stream_is_asked_for_by_a_truth_value(value: bytes, streams: bool) -> None:
    head = b"content-disposition: form-data; name=stream"
    assert form_fields(form((head, value))) == {"stream": streams}


def test_a_value_up_to_the_bound_is_read() -> None:
    for size, read in ((MAX_VALUE, True), (MAX_VALUE + 1, False)):
        assert ("model" in form_fields(form((MODEL, b"x" * size)))) is read


def test_boundary_head_and_parts_are_bounded() -> None:
    for size, fits in ((MAX_BOUNDARY - 2, True), (MAX_BOUNDARY - 1, False)):
        body = form((MODEL, b"m"), boundary=b"--" + b"B" * (size - 2))
        assert (spans(body) if fits else bad(body)) == (
            {"model": (size + 2 + len(MODEL) + 4, size + 2 + len(MODEL) + 5)}
            if fits
            else "it does not begin with a boundary"
        )
    assert spans(form((MODEL, b"m"), boundary=b"--B")) != {}
    assert bad(form((MODEL, b"m"), boundary=b"--")) == "it does not begin with a boundary"
    assert bad(b"-B-" + form((MODEL, b"m"))) == "it does not begin with a boundary"
    for size, fits in ((MAX_HEAD - 4, True), (MAX_HEAD - 3, False)):
        body = form((MODEL + b"x" * (size - len(MODEL)), b"m"))
        assert (bool(spans(body)) if fits else bad(body)) == (
            True if fits else "a part of it is not complete"
        )
    assert spans(form(*[(b"x: 1", b"")] * MAX_PARTS)) == {}
    many = bad(form(*[(b"x: 1", b"")] * (MAX_PARTS + 1)))
    assert many == f"it has more than {MAX_PARTS} parts"
    assert bad(form((MODEL, b"m"))[:-8]) == "a part of it is not complete"
    assert multipart.spans(b"--B\r\n\r\n\r\n\r\n--B--") == {}
