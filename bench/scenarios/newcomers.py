"""New models whose card shows the one best answer."""

from __future__ import annotations

from collections.abc import Iterator

from bench.scenarios.scenario import Scenario, ingest, newcomer
from modelium.models import Priority, RuntimeName, Task

R = RuntimeName


def newcomers() -> list[Scenario]:
    """Return new models that only their cards tell how to load."""
    return [
        *_contexts(),
        *_classes(),
        *_runtimes(),
        *_dtypes(),
    ]


def _contexts() -> Iterator[Scenario]:
    """Yield models whose card states the prompt length; the operator's default is 2,048."""
    needs = [
        ("Summarises annual reports of up to 24,000 tokens.", 24576),
        ("Answers questions over whole contracts; prompts have about 15k tokens.", 15000),
        ("Reviews pull requests; a diff has up to 7,000 tokens.", 7000),
        ("Retrieval-augmented chat, ten passages of 600 tokens each in every prompt.", 6000),
        ("Long-document translation, chapters of 10,000 tokens.", 10000),
        ("Meeting minutes from transcripts, an hour is about 12,000 tokens.", 12000),
        ("Codebase assistant, put whole modules (4k tokens) in the prompt.", 4000),
    ]
    for i, (card, tokens) in enumerate(needs):
        fits = next(n for n in (4096, 8192, 16384, 32768) if n >= tokens)
        yield ingest(
            f"context-{i}",
            "context",
            newcomer(card),
            lambda load, tokens=tokens: (load.settings.max_model_len or 0) >= tokens,  # type: ignore[misc]
            {"max_model_len": fits},
        )
    for i, card in enumerate(
        (
            "Rewrites search queries: one line in, one line out.",
            "Sentiment of product reviews, at most 200 words.",
            "Autocomplete for a form field, 50 tokens of context.",
        )
    ):
        yield ingest(
            f"context-short-{i}",
            "context",
            newcomer(card),
            lambda load: load.settings.max_model_len == 2048,
            {"max_model_len": 2048},
        )


def _classes() -> Iterator[Scenario]:
    """Yield models whose card states their use, under two ceilings."""
    cards = [
        ("Production model behind the checkout assistant. Paged on-call if it is down.", "high"),
        ("Serves all customer chats of the help desk, around the clock.", "high"),
        ("Fraud screening for live payments; every second of outage costs money.", "high"),
        ("Shared internal tool of the research team, used daily.", "medium"),
        ("Staging copy that the sales team demos to customers each week.", "medium"),
        ("Throw-away checkpoint of an ablation. Not for serving.", "low"),
        ("Course exercise, trained for ten minutes on a laptop.", "low"),
        ("Intermediate checkpoint, step 400 of 100,000.", "low"),
    ]
    for ceiling in (Priority.HIGH, Priority.MEDIUM):
        for i, (card, wanted) in enumerate(cards):
            if ceiling is Priority.MEDIUM and i % 2:
                continue
            best = max(Priority(wanted), ceiling, key=lambda p: p.rank)
            yield ingest(
                f"class-{ceiling.value}-{i}",
                "class",
                newcomer(card, priority_ceiling=ceiling),
                lambda load, best=best: load.priority is best,  # type: ignore[misc]
                {"priority": best.value},
            )


def _runtimes() -> Iterator[Scenario]:
    """Yield models that two runtimes support and whose card advises one of them."""
    cards = [
        ("A text generator with a custom logits head: run it with the transformers pipeline; "
         "vLLM ignores the head and returns nonsense.", R.RAY_SERVE),
        ("Needs the plain transformers pipeline; vLLM is known to give wrong outputs.", R.RAY_SERVE),
        ("Outputs differ under vLLM (issue open). Serve it through Ray Serve.", R.RAY_SERVE),
        ("Instruction model for high throughput; tuned for vLLM.", R.VLLM),
        ("Chat model; use an engine with continuous batching.", R.VLLM),
    ]  # fmt: skip
    for i, (card, wanted) in enumerate(cards):
        yield ingest(
            f"runtime-{i}",
            "runtime",
            newcomer(card),
            lambda load, wanted=wanted: load.runtime is wanted,  # type: ignore[misc]
            {"runtime": wanted.value},
        )
    embedding = {"task": Task.EMBEDDING, "architecture": "BertModel", "kv_bytes_per_token": None}
    for i, (card, wanted) in enumerate(
        (
            ("Embeds millions of passages a night; vLLM's pooling runner is ten times as fast as "
             "the pipeline.", R.VLLM),
            ("Small encoder for interactive search, sentence-transformers pipeline.", R.RAY_SERVE),
        )
    ):  # fmt: skip
        yield ingest(
            f"runtime-embedding-{i}",
            "runtime",
            newcomer(card, gib=1, **embedding),
            lambda load, wanted=wanted: load.runtime is wanted,  # type: ignore[misc]
            {"runtime": wanted.value},
        )


def _dtypes() -> Iterator[Scenario]:
    """Yield models that overflow in float16, the operator's default, and one that does not."""
    for i, (card, wanted) in enumerate(
        (
            ("Trained in bfloat16. Activations overflow in float16: outputs become NaN.", "auto"),
            ("Do not run in half precision other than bfloat16.", "auto"),
            ("Use bfloat16; float16 gives garbage after a few hundred tokens.", "auto"),
            ("Runs in float16 as well as in bfloat16.", "float16"),
        )
    ):
        yield ingest(
            f"dtype-{i}",
            "dtype",
            newcomer(card, dtype="bfloat16"),
            lambda load, wanted=wanted: load.settings.dtype == wanted,  # type: ignore[misc]
            {"dtype": wanted},
        )
