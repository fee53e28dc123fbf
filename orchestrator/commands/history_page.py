"""`orch history --html`: one page with charts of the runs, which needs no network, no script and no other file."""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

from orchestrator.commands.history import RunRecord, faults, rate, result, sum_up
from orchestrator.render.sink import amount
from orchestrator.render.words import clock
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 220, 72, 26, 10  # of a chart, in SVG's units
MOST_HOSTS = 8  # as many colours can be told apart
MOST_DAYS = 120
MOST_ROWS = 500
# Paul Tol's "bright" scheme and one more: they can be told apart without red or green, on white and on black.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#999999")
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --dim: #667; --line: #d9dce1; --card: #f5f6f8;
  --bad: #b3261e; --bar: #4477aa }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --text: #e6e8eb; --dim: #9aa3ad; --line: #333a42;
  --card: #1d2127; --bad: #ff8a80; --bar: #77aadd } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--back); color: var(--text); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2.2rem 0 .4rem }
p { color: var(--dim); margin: .2rem 0 }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.tiles div { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem }
.tiles b { display: block; font-size: 1.3rem; font-weight: 600 } .tiles span { color: var(--dim); font-size: .85rem }
svg { width: 100%; height: auto; display: block } svg text { font: 12px system-ui, sans-serif; fill: var(--dim) }
svg .name { fill: var(--text) } .grid { stroke: var(--line) } .bar { fill: var(--bar) }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .88rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--dim); font-weight: 500 } .bad { color: var(--bad) } td:first-child { white-space: nowrap }
td { overflow-wrap: break-word; max-width: 16rem }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(runs: Sequence[RunRecord], host: str, now: float) -> str:
    """The page.

    Args:
        runs: oldest first.
        host: this machine's name.
        now: seconds since the epoch.
    """
    made = _when(now, "%Y-%m-%d %H:%M %Z")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>orch history of {_text(host)}</title><style>{STYLE}</style></head><body>",
        f"<h1>orch history of {_text(host)}</h1><p>Made {_text(made)}. Times are those of this machine.</p>",
        _tiles(runs),
    ]
    if runs:
        parts += [
            "<h2>Rate by host</h2>",
            _rates(runs),
            "<h2>Bytes by day</h2>",
            _days(runs),
            "<h2>Faults by host</h2>",
            _faults(runs),
            "<h2>Hosts</h2>",
            _hosts(runs),
            "<h2>Runs</h2>",
            _runs(runs),
        ]
    else:
        parts.append("<p>No run that did something is known on this machine.</p>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _text(text: str) -> str:
    return escape(shown(text))


def _when(time: float, form: str) -> str:
    return datetime.fromtimestamp(time).astimezone().strftime(form)


def _tiles(runs: Sequence[RunRecord]) -> str:
    failed = sum(bool(run.exit_code) for run in runs)
    count = sum(sum(host.faults.values()) for host in sum_up(runs))
    tiles = (
        (len(runs), "recorded runs" if len(runs) != 1 else "recorded run"),
        (failed, "of them failed"),
        (amount(sum(run.bytes_fetched for run in runs)), "downloaded"),
        (count, "faults of hosts" if count != 1 else "fault of a host"),
    )
    return '<div class="tiles">' + "".join(f"<div><b>{n}</b><span>{what}</span></div>" for n, what in tiles) + "</div>"


def _chart(label: str, height: float, marks: Iterable[str]) -> str:
    inside = "\n".join(marks)
    return f'<svg role="img" aria-label="{_text(label)}" viewBox="0 0 {WIDTH} {height:g}">\n{inside}\n</svg>'


def _scale(most: float, unit: str) -> tuple[float, list[str]]:
    """The value at the top of a chart of bytes, a round one, and its lines with their words."""
    step = 1.0
    while step * 4 < most:
        step *= 1.5 if step.hex().startswith("0x1.0") else 4 / 3  # 1, 1.5, 2, 3, 4, 6 ...
    marks = []
    for number in range(5):
        y = HEIGHT - BOTTOM - number * (HEIGHT - BOTTOM - TOP) / 4
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        words = f"{amount(number * step)}{unit}" if number else "0"
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    return step * 4, marks


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)


def _rates(runs: Sequence[RunRecord]) -> str:
    """The rate of each of the most used hosts in each run, over time."""
    names = [host.host for host in sum_up(runs) if host.received_bytes][:MOST_HOSTS]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for run in runs:
        for host in sum_up((run,)):
            if host.host in points and host.received_bytes and host.seconds > 0:
                points[host.host].append((run.time, host.received_bytes / host.seconds))
    points = {name: found for name, found in points.items() if found}
    if not points:
        return "<p>Nothing was downloaded.</p>"
    times = [time for found in points.values() for time, _ in found]
    first, last = min(times), max(times)
    top, marks = _scale(max(value for found in points.values() for _, value in found), "/s")

    def x(time: float) -> float:
        inner = WIDTH - LEFT - 24
        return LEFT + 12 + (inner / 2 if last == first else (time - first) / (last - first) * inner)

    ends = (first,) if last == first else (first, (first + last) / 2, last)
    form = "%d %b %H:%M" if last - first < 2 * 86400 else "%d %b %Y"
    for time, anchor in zip(ends, ("start", "middle", "end") if len(ends) > 1 else ("middle",), strict=True):
        marks.append(f'<text x="{x(time):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_when(time, form)}</text>')
    legend = []
    for (name, found), colour in zip(points.items(), COLOURS, strict=False):
        line = " ".join(f"{x(time):.1f},{_y(value, top):.1f}" for time, value in found)
        marks.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" opacity=".6"/>')
        for time, value in found:
            title = f"{_text(name)}: {amount(value)}/s, {_when(time, '%Y-%m-%d %H:%M')}"
            at = f'cx="{x(time):.1f}" cy="{_y(value, top):.1f}"'
            marks.append(f'<circle {at} r="3" fill="{colour}"><title>{title}</title></circle>')
        legend.append(f'<span><i style="background:{colour}"></i>{_text(name)}</span>')
    return _chart("Rate by host over time", HEIGHT, marks) + f'<div class="legend">{"".join(legend)}</div>'


def _days(runs: Sequence[RunRecord]) -> str:
    """The bytes of each day, from the first to the last, at most `MOST_DAYS`."""
    sums: dict[str, int] = {}
    for run in runs:
        day = _when(run.time, "%Y-%m-%d")
        sums[day] = sums.get(day, 0) + run.bytes_fetched
    last = datetime.fromisoformat(max(sums))
    number = min(MOST_DAYS, (last - datetime.fromisoformat(min(sums))).days + 1)
    days = [(last - timedelta(days=back)).strftime("%Y-%m-%d") for back in reversed(range(max(number, 14)))]
    top, marks = _scale(max(*(sums.get(day, 0) for day in days), 1), "")
    wide = (WIDTH - LEFT) / len(days)
    every = -(-len(days) // 7)
    for place, day in enumerate(days):
        value, x = sums.get(day, 0), LEFT + place * wide
        if value:
            y = _y(value, top)
            box = f'x="{x + wide * 0.12:.1f}" y="{y:.1f}" width="{wide * 0.76:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
            marks.append(f'<rect class="bar" {box}><title>{day}: {amount(value)}</title></rect>')
        if place % every == 0 and x + wide / 2 < WIDTH - 20:
            text = f"{day[8:]} {datetime.fromisoformat(day).strftime('%b')}"
            marks.append(f'<text x="{x + wide / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    return _chart("Bytes downloaded by day", HEIGHT, marks)


def _faults(runs: Sequence[RunRecord]) -> str:
    """The failed attempts on each host, by fault."""
    hosts = sorted((h for h in sum_up(runs) if h.faults), key=lambda h: -sum(h.faults.values()))[: 2 * MOST_HOSTS]
    if not hosts:
        return "<p>None.</p>"
    kinds = sorted({kind for host in hosts for kind in host.faults})
    colours = {kind: COLOURS[number % len(COLOURS)] for number, kind in enumerate(kinds)}
    most, row, names = max(sum(host.faults.values()) for host in hosts), 26, 250
    marks = []
    for number, host in enumerate(hosts):
        x, y = float(names), number * row + 4
        name = host.host if len(host.host) <= 30 else f"{host.host[:29]}…"
        marks.append(f'<text class="name" x="{names - 10}" y="{y + 13}" text-anchor="end">{_text(name)}</text>')
        for kind, count in sorted(host.faults.items()):
            wide = count / most * (WIDTH - names - 50)
            title = f"<title>{_text(host.host)}: {count} {_text(kind)}</title>"
            box = f'x="{x:.1f}" y="{y}" width="{max(wide, 1):.1f}" height="{row - 8}"'
            marks.append(f'<rect {box} fill="{colours[kind]}">{title}</rect>')
            x += wide
        marks.append(f'<text x="{x + 8:.1f}" y="{y + 13}">{sum(host.faults.values())}</text>')
    legend = "".join(f'<span><i style="background:{colours[k]}"></i>{_text(k)}</span>' for k in kinds)
    return _chart("Faults by host", len(hosts) * row + 4, marks) + f'<div class="legend">{legend}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _hosts(runs: Sequence[RunRecord]) -> str:
    rows = ((_text(h.host), amount(h.received_bytes), rate(h), _text(faults(h))) for h in sum_up(runs))
    return _table(("Host", "Bytes", "Rate", "Faults"), rows)


def _runs(runs: Sequence[RunRecord]) -> str:
    """The last runs, newest first."""
    rows = []
    for run in reversed(runs[-MOST_ROWS:]):
        notes = [f"{_text(f'{f.model}/{f.file}' if f.file else f.model)}: {_text(f.fault)}" for f in run.failures]
        notes += [
            f"{_text(w.host)} {'sent wrong bytes' if w.sent_wrong_bytes else 'sent nothing'}" for w in run.warnings
        ]
        ended = f'<span class="bad">{result(run)}</span>' if run.exit_code else result(run)
        rows.append(
            (
                _when(run.time, "%Y-%m-%d %H:%M"),
                _text(run.command),
                "<br>".join((ended, *notes)),
                amount(run.bytes_fetched) if run.bytes_fetched else "-",
                clock(run.seconds),
                "<br>".join(f"{_text(s.host)} ({_text(s.backend)})" for s in run.sources) or "-",
                _text(", ".join(run.models)) or "-",
                _text(run.manifest) or "-",
            )
        )
    left = len(runs) - len(rows)
    more = f"<p>{left:,} earlier ones are not shown.</p>" if left > 0 else ""
    head = ("When", "Command", "Result", "Bytes", "Time", "From", "Models", "Manifest")
    return _table(head, rows) + more
