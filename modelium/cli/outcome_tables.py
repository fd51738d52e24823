"""What came of decisions, as lines and as the table that compares who decided."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table
from rich.text import Text

from modelium.cli.visible import visible

FIGURES = {
    "decisions": "deci-\nsions",
    "fallbacks": "LLM\nfailed",
    "loads": "loads",
    "unloads": "un-\nloads",
    "queued": "queued",
    "cold_starts": "cold\nstarts",
    "load_seconds": "load\nsecs",
    "failures": "fail-\nures",
    "reversals": "rever-\nsals",
    "never_asked": "never\nasked",
}
"""Field of a report's row → its heading, which fits a terminal of 80 columns."""


def outcomes(rows: list[dict[str, Any]], decision: str) -> list[Text]:
    """Return what came of the actions of a decision, a line for each."""
    return [
        Text(f"  → {row['action']} {row['model']}: {visible(row['summary'])}", style="dim")
        for row in rows
        if row["decision"] == decision
    ]


def authors(report: dict[str, Any]) -> list[Text | Table]:
    """Return the table of `modelium brain report`."""
    since, oldest = report["since"], report["oldest"]
    if oldest is None or not report["authors"]:
        return [Text("no decision has been made in this time")]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("decided\nby")
    for heading in FIGURES.values():
        table.add_column(heading, justify="right")
    for row in report["authors"]:
        table.add_row(row["author"], *(f"{row[name]:.0f}" for name in FIGURES))
    begins = time.strftime("%F %T", time.localtime(max(since, oldest)))
    kept = " (older ones are not kept)" if oldest > since else ""
    about = f"decisions at {report['trigger']}" if report["trigger"] else "all decisions"
    return [Text(f"{about} since {begins}{kept}", style="dim"), table, *_departures(report)]


def _departures(report: dict[str, Any]) -> list[Text]:
    """Return a line for each kind of departure that the LLM may make."""
    return [
        Text(
            f"departures: {row['kind']}: {row['carried_out']} carried out, {row['shadows']} only "
            f"recorded; {row['right']} right, {row['wrong']} wrong; "
            f"{'trusted' if row['trusted'] else 'not trusted yet'}"
        )
        for row in report["departures"]
    ]
