"""Small changes of a Python source, each at one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
_CALLS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "startswith": "endswith",
    "endswith": "startswith",
}
_SILENT = {"logger", "logging", "warnings"}


@dataclass(frozen=True, kw_only=True, order=True)
class Mutation:
    """Replace the bytes ``start`` to ``end`` of a source by ``text``."""

    line: int
    """1-based, where the mutated expression or statement begins."""
    start: int
    end: int
    text: str
    what: str
    """The operator, in a few words."""

    def apply(self, source: bytes) -> bytes:
        """Return the mutated source."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutations(source: bytes) -> list[Mutation]:
    """Return every mutation of the bodies of the functions in ``source``, by place.

    Left out: what only logs, annotations, docstrings, default values, and everything outside
    functions. A mutation that Python would not compile is left out as well.
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted({found for found in finder.found if _compiles(found.apply(source))})


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes) -> None:
        self.found: list[Mutation] = []
        self._source = source
        lines = source.splitlines(keepends=True)
        self._offsets = [0]
        for line in lines:
            self._offsets.append(self._offsets[-1] + len(line))
        self._depth = 0

    # What is not mutated.

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        for number, statement in enumerate(node.body):
            docstring = (
                number == 0
                and isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
            )
            if not docstring:
                self.visit(statement)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        """Texts are for people: their wording is no behaviour."""

    # What is.

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            self._between(node.left, node.comparators[0], _COMPARISONS[type(node.ops[0])], node)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        text = _ARITHMETIC.get(type(node.op))
        strings = any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in _sides(node))
        if text and not strings:
            self._between(node.left, node.right, text, node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        swapped = "or" if isinstance(node.op, ast.And) else "and"
        first, second = node.values[0], node.values[1]
        if len(node.values) == 2:
            self._between(first, second, swapped, node)
        for gone in node.values:
            kept = [value for value in node.values if value is not gone]
            joint = " and " if isinstance(node.op, ast.And) else " or "
            text = joint.join(f"({self._text(value)})" for value in kept)
            self._replace(node, text, f"without {_short(self._text(gone))}")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(node, f"({self._text(node.operand)})", "without not")
        elif isinstance(node.op, ast.USub):
            self._replace(node, self._text(node.operand), "without minus")
            return  # its number alone would be mutated twice
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value), f"{node.value} inverted")
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1), f"{node.value} + 1")
        elif isinstance(node.value, float):
            self._replace(node, repr(node.value * 10 or 1.0), f"{node.value} × 10")

    def visit_Call(self, node: ast.Call) -> None:
        if self._logs(node):
            return
        name = node.func
        if isinstance(name, ast.Name) and name.id in _CALLS:
            self._replace(name, _CALLS[name.id], f"{name.id} → {_CALLS[name.id]}")
        elif isinstance(name, ast.Attribute) and name.attr in _CALLS:
            text = f"{self._text(name.value)}.{_CALLS[name.attr]}"
            self._replace(name, text, f"{name.attr} → {_CALLS[name.attr]}")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._replace(node.test, f"(not ({self._text(node.test)}))", "condition inverted")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self._replace(node.test, "False", "condition False")
        if not node.orelse:
            self._replace(node.test, "True", "condition True")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            self._replace(value, "None", "returns None")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass", "does not raise")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break", "continue → break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue", "break → continue")

    def visit_Expr(self, node: ast.Expr) -> None:
        inner = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(inner, ast.Call) and not self._logs(inner):
            self._replace(node, "pass", f"without {_short(self._text(node))}")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass", f"without {_short(self._text(node))}")
        self.generic_visit(node)

    def _logs(self, node: ast.Call) -> bool:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        return isinstance(owner, ast.Name) and owner.id in _SILENT

    def _at(self, line: int, column: int) -> int:
        return self._offsets[line - 1] + column

    def _begin(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _finish(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._begin(node) : self._finish(node)].decode()

    def _between(self, left: ast.expr, right: ast.expr, text: str, node: ast.expr) -> None:
        """Replace the operator between two operands, and keep parentheses beside it."""
        start, end = self._finish(left), self._begin(right)
        gap = self._source[start:end].decode()
        operator = gap.strip("() \t\n\\")
        if "#" in gap or not operator:
            return  # a comment in the middle
        self._add(node, start, end, gap.replace(operator, text, 1), f"{operator} → {text}")

    def _replace(self, node: ast.expr | ast.stmt, text: str, what: str) -> None:
        self._add(node, self._begin(node), self._finish(node), text, what)

    def _add(self, node: ast.expr | ast.stmt, start: int, end: int, text: str, what: str) -> None:
        if self._depth and self._source[start:end].decode() != text:
            mutation = Mutation(line=node.lineno, start=start, end=end, text=text, what=what)
            self.found.append(mutation)


def _sides(node: ast.BinOp) -> Iterator[ast.expr]:
    yield node.left
    yield node.right


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
