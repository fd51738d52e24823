"""What the installed vLLM is and accepts, read from its files: importing it takes ten seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

MAX_SOURCE = 4 * 1024**2
"""Larger files are not vLLM's."""
ARGUMENTS = ("vllm/engine/arg_utils.py",)
FRONTENDS = ("vllm/entrypoints/openai/cli_args.py", "vllm/entrypoints/launchers/cli_args.py")
"""The server's own arguments, which are the fields of dataclasses named …FrontendArgs."""
TOOL_PARSERS = ("vllm/tool_parsers", "vllm/entrypoints/openai/tool_parsers")
REASONING_PARSERS = ("vllm/reasoning",)

Version = tuple[int, int]

UUIDS_SINCE: Version = (0, 24)
"""Earlier releases read CUDA_VISIBLE_DEVICES with int(), and fail on "GPU-…" (vllm#13815, #20939).
"""


class Tree(Protocol):
    """A folder of packages: a `pathlib.Path`, or a `zipfile.Path` of a wheel."""

    @property
    def name(self) -> str:
        """Last part of the path."""

    def joinpath(self, *other: str) -> Tree:
        """Return the entry at a relative path."""

    def iterdir(self) -> Iterator[Tree]:
        """Yield the entries of the folder."""

    def is_file(self) -> bool:
        """Whether it is a file."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def read_text(self, encoding: str) -> str:
        """Return the file's text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """One installed vLLM. Without a readable installation everything is taken to be accepted."""

    version: str = ""
    """As its metadata names it, for example ``0.32.0+cpu``; empty where unknown."""
    arguments: frozenset[str] = frozenset()
    """Names of the options of ``vllm serve`` (``--dtype``); empty where unknown."""
    tool_parsers: frozenset[str] = frozenset()
    reasoning_parsers: frozenset[str] = frozenset()

    def accepts(self, argument: str) -> bool:
        """Whether ``vllm serve`` has the option ``argument`` (``--dtype``), or may have it."""
        if not self.arguments:
            return True
        return argument in self.arguments or argument.replace("--no-", "--", 1) in self.arguments

    @property
    def takes_uuids(self) -> bool:
        """Whether CUDA_VISIBLE_DEVICES may hold UUIDs; False where that is not proven."""
        number = version_number(self.version)
        return number is not None and number >= UUIDS_SINCE


def version_number(version: str) -> Version | None:
    """Return major and minor of ``version``; None where it does not begin with them."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(found[1]), int(found[2])) if found else None


def installed(executable: Path) -> Installation:
    """Return the vLLM whose command is ``executable``; an empty one where its files are not found.

    Blocks for a tenth of a second at the first call, for less after that.
    """
    for home in (executable.parent.parent, executable.resolve().parent.parent):
        for metadata in sorted(home.glob("lib/python3*/site-packages/vllm-*.dist-info")):
            return _read_once(metadata, metadata.stat().st_mtime_ns)
    return Installation()


@lru_cache(maxsize=8)
def _read_once(metadata: Path, _changed_ns: int) -> Installation:
    return read(metadata.parent, metadata.name.removeprefix("vllm-").removesuffix(".dist-info"))


def read(packages: Tree, version: str) -> Installation:
    """Return what the vLLM ``version`` in the folder ``packages`` accepts."""
    arguments = {name for tree in _sources(packages, ARGUMENTS) for name in _added(tree)}
    for tree in _sources(packages, FRONTENDS):
        arguments |= set(_added(tree)) | set(_fields(tree))
    return Installation(
        version=version,
        arguments=frozenset(name for name in arguments if name.startswith("--")),
        tool_parsers=frozenset(_parsers(packages, TOOL_PARSERS)),
        reasoning_parsers=frozenset(_parsers(packages, REASONING_PARSERS)),
    )


def _sources(packages: Tree, names: Iterable[str]) -> Iterator[ast.Module]:
    for name in names:
        found = packages.joinpath(*name.split("/"))
        if found.is_file() and (tree := _parse(found)):
            yield tree


def _parse(file: Tree) -> ast.Module | None:
    try:
        text = file.read_text("utf-8")
        return ast.parse(text) if len(text) <= MAX_SOURCE else None
    except (OSError, SyntaxError, ValueError):
        return None


def _added(tree: ast.Module) -> Iterator[str]:
    """Yield the names in calls of ``add_argument``."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "add_argument"
        ):
            yield from _strings(node.args)


def _fields(tree: ast.Module) -> Iterator[str]:
    """Yield the options that the fields of classes named …FrontendArgs become."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield "--" + field.target.id.replace("_", "-")


def _parsers(packages: Tree, folders: Iterable[str]) -> Iterator[str]:
    """Yield the names of registered parsers: keys of a table, or arguments of decorators."""
    for name in folders:
        folder = packages.joinpath(*name.split("/"))
        if not folder.is_dir():
            continue
        for file in folder.iterdir():
            tree = _parse(file) if file.name.endswith(".py") else None
            if tree is None:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                    target = node.targets[0]
                    if isinstance(target, ast.Name) and target.id.endswith("_TO_REGISTER"):
                        yield from _strings(key for key in node.value.keys if key)
                elif isinstance(node, ast.ClassDef):
                    for decorator in node.decorator_list:
                        if isinstance(decorator, ast.Call) and _names_module(decorator.func):
                            yield from _strings(decorator.args)


def _names_module(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "register_module"


def _strings(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.List | ast.Tuple):
            yield from _strings(node.elts)
