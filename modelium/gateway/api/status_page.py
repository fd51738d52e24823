"""The read-only status page: one HTML document without scripts or external assets (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from modelium.gateway.api.views import DeviceRow, ModelRow, device_rows, model_rows
from modelium.models import GIB, Drop, DropState, Fleet
from modelium.models.teams import TeamReport

REFRESH_S = 5

MAX_REJECTED = 20
"""Rejected drops on the page, the newest; the API lists all of them."""

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 15%, Canvas);
  --soft: color-mix(in srgb, CanvasText 60%, Canvas); --bar: #2f81f7; --book: #2f81f755; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1.5rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
nav a { margin-right: 1rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } td.reason { white-space: normal; min-width: 16rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.state { border-radius: 1em; padding: .05em .7em; border: 1px solid var(--line); }
.ready { background: #2da44e33; } .loading, .draining, .unloading { background: #bf870033; }
.failed, .sick, .incomplete, .rejected { background: #cf222e33; }
.queued, .arriving { background: #8250df33; }
.meter { position: relative; height: .8rem; min-width: 12rem; border: 1px solid var(--line);
  border-radius: .4rem; overflow: hidden; }
.meter i { position: absolute; inset: 0 auto 0 0; background: var(--bar); }
.meter i.booked { background: var(--book); }
"""


def render(
    fleet: Fleet,
    *,
    links: Mapping[str, str],
    drops: Sequence[Drop] = (),
    teams: Sequence[TeamReport] = (),
    notices: Sequence[str] = (),
) -> str:
    """Return the page; ``links``: text → URL; ``drops``: newest first. All values are escaped."""
    models = "".join(_model(row) for row in model_rows(fleet))
    devices = "".join(_device(row) for row in device_rows(fleet))
    sick = [r for r in fleet.runtimes if r.enabled and not r.healthy]
    warnings = "".join(
        f'<p><span class="state {"loading" if r.starting else "sick"}">{_e(r.name)} is '
        f"{'starting' if r.starting else 'down'}</span> {_e(r.detail)}</p>"
        for r in sick
    )
    warnings += "".join(
        f'<p><span class="state sick">{_e(node.name)} is silent</span> for '
        f"{_duration(node.silent_s)}; what it has stays booked</p>"
        for node in fleet.nodes
        if node.silent
    )
    warnings += "".join(f"<p>{_e(notice)}</p>" for notice in notices)
    navigation = "".join(
        f'<a href="{_e(url)}">{_e(text)}</a>'
        for text, url in {**links, "Metrics": "/metrics"}.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>Modelium</title><style>{_STYLE}</style></head><body>
<header><h1>Modelium</h1><nav>{navigation}</nav>
<span class="soft">{len(fleet.models)} models, revision {fleet.revision}</span></header>
{warnings}
<h2>Models</h2>
{_table(_MODEL_COLUMNS, models, "No models yet. Put a model folder into the drop zone.")}
{_drops(drops, now=fleet.at)}{_teams(teams)}<h2>Devices</h2>
{_table(_DEVICE_COLUMNS, devices, "No devices found.")}
</body></html>
"""


_MODEL_COLUMNS = (
    ("Model", ""),
    ("State", ""),
    ("Runtime", ""),
    ("Device", ""),
    ("Memory", "n"),
    ("Idle", "n"),
    ("QPS", "n"),
    ("Waiting", "n"),
    ("Reason", ""),
)
_DROP_COLUMNS = (("Drop", ""), ("State", ""), ("Since", "n"), ("Reason", ""))
_TEAM_COLUMNS = (
    ("Team", ""),
    ("Loaded / models", "n"),
    ("Queued", "n"),
    ("Memory / quota", "n"),
    ("GPU-seconds of 24 h / quota", "n"),
    ("Weight", "n"),
)
_DEVICE_COLUMNS = (
    ("Device", ""),
    ("Memory", ""),
    ("Used / total", "n"),
    ("Booked", "n"),
    ("Utilization", "n"),
    ("Models", ""),
)


def _table(columns: Sequence[tuple[str, str]], rows: str, nothing: str) -> str:
    if not rows:
        return f'<p class="soft">{_e(nothing)}</p>'
    head = "".join(f'<th scope="col" class="{css}">{text}</th>' for text, css in columns)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _model(row: ModelRow) -> str:
    pin = ' <span title="pinned: never evicted">📌</span>' if row.pinned else ""
    idle = "" if row.idle_s is None else _duration(row.idle_s)
    memory = _gib(row.resident_bytes or row.booked_bytes) if row.booked_bytes else ""
    where = ", ".join(row.devices) + (f" on {', '.join(row.nodes)}" if row.nodes else "")
    return (
        f"<tr><td><strong>{_e(row.name)}</strong>{pin}</td>"
        f'<td><span class="state {_e(row.state)}">{_e(row.state)}</span></td>'
        f"<td>{_e(row.runtime or '')}</td><td>{_e(where)}</td>"
        f'<td class="n">{memory}</td><td class="n">{idle}</td><td class="n">{row.qps:.2f}</td>'
        f'<td class="n">{row.pending}</td><td class="reason">{_e(row.reason)}</td></tr>'
    )


def _drops(drops: Sequence[Drop], *, now: float) -> str:
    """Return the section of the drops that are no models; none where there are none."""
    pending = [drop for drop in drops if drop.state is not DropState.REJECTED]
    rejected = [drop for drop in drops if drop.state is DropState.REJECTED]
    rows = "".join(_drop(drop, now=now) for drop in [*pending, *rejected[:MAX_REJECTED]])
    return f"<h2>Drops</h2>\n{_table(_DROP_COLUMNS, rows, '')}\n" if rows else ""


def _drop(drop: Drop, *, now: float) -> str:
    return (
        f"<tr><td><strong>{_e(drop.name)}</strong></td>"
        f'<td><span class="state {_e(drop.state)}">{_e(drop.state)}</span></td>'
        f'<td class="n">{_duration(max(0.0, now - drop.since))}</td>'
        f'<td class="reason">{_e(drop.reason)}</td></tr>'
    )


def _teams(teams: Sequence[TeamReport]) -> str:
    """Return the section of the teams; none where there are none."""
    rows = "".join(map(_team, teams))
    return f"<h2>Teams</h2>\n{_table(_TEAM_COLUMNS, rows, '')}\n" if rows else ""


def _team(team: TeamReport) -> str:
    undeclared = "" if team.declared else ' <span class="soft">not declared</span>'
    memory, seconds = _gib(team.held_bytes), f"{team.gpu_seconds:.0f}"
    if team.memory_quota_bytes is not None:
        memory += f" / {_gib(team.memory_quota_bytes)}"
    if team.gpu_seconds_quota is not None:
        seconds += f" / {team.gpu_seconds_quota:.0f}"
    return (
        f"<tr><td><strong>{_e(team.name)}</strong>{undeclared}</td>"
        f'<td class="n">{team.loaded} / {team.models}</td><td class="n">{team.queued}</td>'
        f'<td class="n">{memory}</td><td class="n">{seconds}</td>'
        f'<td class="n">{team.weight:g}</td></tr>'
    )


def _device(row: DeviceRow) -> str:
    used, booked = (_share(part, row.total_bytes) for part in (row.used_bytes, row.booked_bytes))
    busy = "" if row.utilization is None else f"{row.utilization:.0%}"
    state = "" if row.healthy else f' <span class="state sick">{_e(row.detail or "down")}</span>'
    return (
        f"<tr><td><strong>{_e(row.label)}</strong> {_e(row.name)}{state}</td>"
        f'<td><div class="meter" role="meter" aria-label="memory used" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{used:.0f}">'
        f'<i class="booked" style="width:{booked:.1f}%"></i>'
        f'<i style="width:{used:.1f}%"></i></div></td>'
        f'<td class="n">{_gib(row.used_bytes)} / {_gib(row.total_bytes)}</td>'
        f'<td class="n">{_gib(row.booked_bytes)}</td><td class="n">{busy}</td>'
        f"<td>{_e(', '.join(row.models))}</td></tr>"
    )


def _share(part: int, whole: int) -> float:
    return min(100.0, max(0.0, 100 * part / whole)) if whole else 0.0


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _e(text: object) -> str:
    return escape(str(text), quote=True)
