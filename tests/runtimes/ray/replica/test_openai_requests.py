"""Requests of OpenAI's API and its relatives, as replicas check them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runtimes.ray.replica.openai_requests import (
    classify_request,
    embedding_request,
    image_request,
    rerank_request,
    score_request,
)
from runtimes.ray.replica.tensors import BadRequest


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ({"input": "a"}, ["a"]),
        ({"input": ["a", "b"]}, ["a", "b"]),
        ({"input": [1, 2]}, [[1, 2]]),
        ({"input": [[1], [2, 3]]}, [[1], [2, 3]]),
    ],
)
def test_every_form_of_openai_input_is_understood(document: Any, texts: Any) -> None:
    assert embedding_request(json.dumps(document).encode(), model="m") == (texts, False)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"input": []},
        {"input": [[]]},
        {"input": ["a", 1]},
        {"input": [1, "a"]},
        {"input": 5},
        {"input": "a", "encoding_format": "hex"},
        {"input": "a", "dimensions": 8},
        {"input": "a", "model": "other"},
    ],
)
def test_wrong_embedding_requests_are_refused(document: Any) -> None:
    with pytest.raises(BadRequest):
        embedding_request(json.dumps(document).encode(), model="m")


def test_documents_may_be_texts_or_objects() -> None:
    body = {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
    assert rerank_request(json.dumps(body).encode(), model="m") == ("q", ["a", "b"], 1)
    del body["top_n"]
    assert rerank_request(json.dumps(body).encode(), model="m")[2] == 2


@pytest.mark.parametrize(
    ("document", "pairs"),
    [
        ({"text_1": "q", "text_2": ["a", "b"]}, [("q", "a"), ("q", "b")]),
        ({"text_1": ["q", "r"], "text_2": ["a", "b"]}, [("q", "a"), ("r", "b")]),
        ({"queries": "q", "documents": "a"}, [("q", "a")]),
    ],
)
def test_pairs_are_one_to_many_or_one_to_one(document: Any, pairs: Any) -> None:
    assert score_request(json.dumps(document).encode(), model="m") == pairs


def test_an_image_request_has_the_pipelines_parameters() -> None:
    body = {"prompt": "a cat", "n": 2, "size": "64x32", "seed": 7, "quality": "high"}
    assert image_request(json.dumps(body).encode(), model="m") == (
        ["a cat", "a cat"],
        {"width": 64, "height": 32, "seed": 7},
    )


@pytest.mark.parametrize(
    ("read", "document"),
    [
        (rerank_request, {"query": "q"}),
        (rerank_request, {"query": "q", "documents": []}),
        (rerank_request, {"query": "q", "documents": [{}]}),
        (rerank_request, {"query": "q", "documents": ["a"] * 5000}),
        (rerank_request, {"query": "q", "documents": ["a"], "top_n": -1}),
        (score_request, {"text_1": ["a", "b"], "text_2": "c"}),
        (score_request, {"text_1": "a"}),
        (classify_request, {"input": []}),
        (classify_request, {"input": [1]}),
        (classify_request, {"input": "a", "model": "other"}),
        (image_request, {}),
        (image_request, {"prompt": "a", "n": 9}),
        (image_request, {"prompt": "a", "size": "1e3x2"}),
        (image_request, {"prompt": "a", "response_format": "url"}),
    ],
)
def test_other_requests_are_refused(read: Callable[..., Any], document: Any) -> None:
    with pytest.raises(BadRequest):
        read(json.dumps(document).encode(), model="m")
