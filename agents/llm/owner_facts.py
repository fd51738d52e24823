"""What the owner of a model wishes, as facts for an LLM (pure).

Values of a note are of known kinds; its words are untrusted text like a model card.
"""

from __future__ import annotations

from typing import Any

from agents.llm.untrusted import word, wrapped
from modelium.models import Model


def owner_wishes(model: Model) -> dict[str, Any]:
    """Return what the note of ``model`` asks for, without its words; empty where there is none.

    The rules have followed it as far as the operator allows.
    """
    wishes = model.wishes
    if wishes is None:
        return {}
    found = {
        "team": word(wishes.team),
        "priority": wishes.priority.value if wishes.priority else None,
        "context": wishes.context,
        "runtime": wishes.runtime.value if wishes.runtime else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def owner_words(model: Model) -> str:
    """Return the words of the note, marked as untrusted; empty where there are none."""
    if model.wishes is None or not model.wishes.text.strip():
        return ""
    return wrapped(model.wishes.text, source=f"the owner of {model.name}")
