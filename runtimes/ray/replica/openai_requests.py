"""Requests of OpenAI's API and its relatives, checked (no I/O here)."""

from __future__ import annotations

import re
from typing import Any

from runtimes.ray.replica.tensors import BadRequest, read_object

MAX_PAIRS = 4096
"""Upper bound of the pairs of one ranking request: it computes them one after another."""
MAX_IMAGES = 8
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def embedding_request(body: bytes, *, model: str) -> tuple[list[Any], bool]:
    """Return the texts (or token ids) of an OpenAI embedding request, and whether it wants base64.

    Raises:
        BadRequest: it is malformed, or asks for something unsupported.
    """
    document = read_object(body)
    if document.get("model", model) != model:
        raise BadRequest(f"unknown model {document['model']!r}: this is {model!r}")
    encoding = document.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format must be float or base64")
    if document.get("dimensions") is not None:
        raise BadRequest("`dimensions` is not supported: remove it to get the model's own width")
    given = document.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and type(given[0]) is int):
        given = [given]
    if not isinstance(given, list) or not given:
        raise BadRequest("`input` must be a text, a list of texts, or token ids")
    texts = all(isinstance(item, str) for item in given)
    ids = all(
        isinstance(item, list) and item and all(type(token) is int for token in item)
        for item in given
    )
    if not texts and not ids:
        raise BadRequest("`input` must be a text, a list of texts, or token ids")
    return given, encoding == "base64"


def rerank_request(body: bytes, *, model: str) -> tuple[str, list[str], int]:
    """Return query, documents and the number of results that are wanted.

    Raises:
        BadRequest: it is malformed.
    """
    document = _object(body, model)
    query, given, top = document.get("query"), document.get("documents"), document.get("top_n")
    if not isinstance(query, str):
        raise BadRequest("`query` must be a text")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_PAIRS:
        raise BadRequest(f"`documents` must be a list of 1 to {MAX_PAIRS} texts")
    texts = [one.get("text") if isinstance(one, dict) else one for one in given]
    if top is not None and (type(top) is not int or top < 0):
        raise BadRequest("`top_n` must be a whole number of at least 0")
    return query, _texts(texts, "documents"), top or len(texts)


def score_request(body: bytes, *, model: str) -> list[tuple[str, str]]:
    """Return the pairs to score: one text with each of many, or two lists of equal length.

    Raises:
        BadRequest: it is malformed.
    """
    document = _object(body, model)
    first = document.get("text_1", document.get("queries"))
    second = document.get("text_2", document.get("documents"))
    queries = _texts([first] if isinstance(first, str) else first, "text_1")
    documents = _texts([second] if isinstance(second, str) else second, "text_2")
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise BadRequest("`text_1` must be one text, or as many as `text_2`")
    return list(zip(queries, documents, strict=True))


def classify_request(body: bytes, *, model: str) -> list[str]:
    """Return the texts to classify.

    Raises:
        BadRequest: it is malformed.
    """
    given = _object(body, model).get("input")
    return _texts([given] if isinstance(given, str) else given, "input")


def image_request(body: bytes, *, model: str) -> tuple[list[str], dict[str, Any]]:
    """Return the text for each image, and the parameters of the pipeline.

    Raises:
        BadRequest: it is malformed, or asks for something unsupported.
    """
    document = _object(body, model)
    prompt, count = document.get("prompt"), document.get("n")
    count = 1 if count is None else count
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest("`prompt` must be a text")
    if type(count) is not int or not 1 <= count <= MAX_IMAGES:
        raise BadRequest(f"`n` must be 1 to {MAX_IMAGES}")
    if document.get("response_format") not in (None, "b64_json"):
        raise BadRequest("response_format must be b64_json: images are not stored for a URL")
    if document.get("stream"):
        raise BadRequest("`stream` is not supported")
    names = ("num_inference_steps", "guidance_scale", "seed")
    parameters = {name: document[name] for name in names if document.get(name) is not None}
    size = document.get("size")
    if size not in (None, "auto"):
        found = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if found is None:
            raise BadRequest("`size` must be WIDTHxHEIGHT, e.g. 512x512")
        parameters |= {"width": int(found[1]), "height": int(found[2])}
    return [prompt] * count, parameters


def _object(body: bytes, model: str) -> dict[str, Any]:
    document = read_object(body)
    if document.get("model", model) != model:
        raise BadRequest(f"unknown model {document['model']!r}: this is {model!r}")
    return document


def _texts(given: Any, name: str) -> list[str]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_PAIRS:
        raise BadRequest(f"`{name}` must be a text, or a list of 1 to {MAX_PAIRS} texts")
    if not all(isinstance(item, str) for item in given):
        raise BadRequest(f"`{name}` must be texts")
    return given
