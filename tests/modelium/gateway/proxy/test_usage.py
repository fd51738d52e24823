"""Tokens of an answer, read off its bytes."""

from __future__ import annotations

import json

import pytest

from modelium.gateway.proxy.usage import TAIL_BYTES, Usage


def seen(*chunks: bytes, stream: bool = False) -> tuple[int | None, int | None]:
    usage = Usage(at=1.0)
    for chunk in chunks:
        usage.feed(chunk, events=stream)
    return usage.prompt_tokens, usage.generated_tokens


def answer(text: str = "hello", **usage: int) -> bytes:
    return json.dumps({"choices": [{"text": text}], "usage": usage, "id": "x"}).encode()


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_usage_is_found_however_the_answer_is_cut(size: int) -> None:
    body = answer("a" * 5000, prompt_tokens=12, completion_tokens=345, total_tokens=357)
    assert seen(*(body[i : i + size] for i in range(0, len(body), size))) == (12, 345)


def test_the_words_of_the_responses_api_are_known() -> None:
    assert seen(answer(input_tokens=3, output_tokens=4)) == (3, 4)


def test_embeddings_have_a_prompt_alone() -> None:
    assert seen(answer(prompt_tokens=8, total_tokens=8)) == (8, None)


def test_generated_text_cannot_pass_for_a_usage() -> None:
    text = '"prompt_tokens": 999, "completion_tokens": 999'
    assert seen(answer(text)) == (None, None)


def test_a_stream_says_it_in_its_last_event_or_is_counted() -> None:
    event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    said = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
    assert seen(event, event + event, b"data: [DONE]\n\n", stream=True) == (None, 3)
    assert seen(event, event, said, b"data: [DONE]\n\n", stream=True) == (5, 2)


def test_other_answers_have_none() -> None:
    assert seen(b"\x00" * (3 * TAIL_BYTES)) == (None, None)
