"""A note is data: what it asks for is read within bounds, and what is wrong with it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelium.analysis import owner_note
from modelium.analysis.readers.owner_note import MAX_BYTES, NOTE
from modelium.models import Priority, RuntimeName, Wishes

KNOWN = "known keys are team, priority, context, runtime, wishes"


def read(folder: Path, text: str | bytes) -> Wishes:
    (folder / NOTE).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = owner_note(folder)
    assert found is not None
    return found


def lost(why: str) -> Wishes:
    return Wishes(problems=(f"modelium.toml {why}, so nothing in it counts",))


def test_without_a_note_nothing_is_wished(tmp_path: Path) -> None:
    assert owner_note(tmp_path) is None


def test_an_empty_note_asks_for_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Wishes()


def test_each_wish_is_read(tmp_path: Path) -> None:
    text = (
        'team = "research"\npriority = "high"\ncontext = 8192\nruntime = "llama_cpp"\n'
        'wishes = "Warm at nine, \\u0007please.\\nThanks."\n'
    )
    assert read(tmp_path, text) == Wishes(
        team="research",
        priority=Priority.HIGH,
        context=8192,
        runtime=RuntimeName.LLAMA_CPP,
        text="Warm at nine,  please.\nThanks.",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("team = 3", "team is left out: a team is a name of up to 128 characters"),
        ('team = ""', "team is left out: a team is a name of up to 128 characters"),
        (f'team = "{"t" * 129}"', "team is left out: a team is a name of up to 128 characters"),
        ('team = "a\\nb"', "team is left out: a team is a name of up to 128 characters"),
        ('priority = "urgent"', "priority is left out: priority is high, medium, low"),
        ("priority = [1]", "priority is left out: priority is high, medium, low"),
        ("context = 0", "context is left out: context is a number of tokens above 0"),
        ("context = true", "context is left out: context is a number of tokens above 0"),
        ("context = 1.5", "context is left out: context is a number of tokens above 0"),
        ("context = 2147483648", "context is left out: context is a number of tokens above 0"),
        (
            'runtime = "tgi"',
            "runtime is left out: runtimes are vllm, triton, ray_serve, llama_cpp",
        ),
        ("wishes = 1", "wishes is left out: wishes is a text of up to 500 characters"),
        (
            f'wishes = "{"w" * 501}"',
            "wishes is left out: wishes is a text of up to 500 characters",
        ),
        ("pinned = true", f"unknown keys: 'pinned'; {KNOWN}"),
        ("[models.a]\nb = 1\n[other]", f"unknown keys: 'models', 'other'; {KNOWN}"),
        ('"a\\nb" = 1', f"unknown keys: 'a\\nb'; {KNOWN}"),
        (
            "\n".join(f"k{i} = 1" for i in range(9)),
            f"unknown keys: {', '.join(repr(f'k{i}') for i in range(8))} and 1 more; {KNOWN}",
        ),
    ],
)
def test_what_is_not_understood_is_named_and_the_rest_counts(
    tmp_path: Path, line: str, problem: str
) -> None:
    other = 'priority = "low"\n' if not line.startswith("priority") else "context = 7\n"
    expected = {"priority": Priority.LOW} if "priority" in other else {"context": 7}
    assert read(tmp_path, other + line) == Wishes.model_validate(
        {**expected, "problems": (problem,)}
    )


@pytest.mark.parametrize("line", ["context = 2147483647", f'team = "{"t" * 128}"'])
def test_the_bounds_themselves_are_allowed(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line).problems == ()


def test_the_longest_text_is_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, f'wishes = "{"w" * 500}"') == Wishes(text="w" * 500)


@pytest.mark.parametrize("text", ["a =", b"\xff\xfe", "a = 1\na = 2", "x = " + "[" * 8000])
def test_what_is_no_toml_costs_the_note_and_not_the_drop(tmp_path: Path, text: str | bytes) -> None:
    (problem,) = read(tmp_path, text).problems
    assert problem.startswith("modelium.toml is not valid TOML (")
    assert problem.endswith("), so nothing in it counts")


def test_a_note_has_a_size_limit(tmp_path: Path) -> None:
    line = 'team = "a"\n'
    assert read(tmp_path, line + "#" * (MAX_BYTES - len(line))) == Wishes(team="a")
    too_large = line + "#" * (MAX_BYTES + 1 - len(line))
    assert read(tmp_path, too_large) == lost("is larger than 16384 bytes")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('team = "prod"')
    (tmp_path / NOTE).symlink_to(tmp_path / "secret")
    found = owner_note(tmp_path)
    assert found is not None and found.team is None
    assert found.problems[0].startswith("modelium.toml cannot be read (")


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NOTE)
    assert owner_note(tmp_path) == lost("is not a plain file")
