"""Record `orch demo` in a terminal and write docs/demo.svg: `make cast`, or `python docs/cast.py FILE COMMAND...`.

The screens are those that pyte, a terminal in Python, shows; each stays as long as it stood. They lie side by side in
the picture like frames of a film, which CSS moves on; no script runs, so it plays where Markdown shows pictures.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from itertools import groupby
from pathlib import Path

import pyte

HOUSE = Path(__file__).resolve().parents[1]
COLUMNS, LINES = 100, 28
FRAME_S = 0.25  # screens that stand for less are passed over
LAST_S = 6.0  # how long the last one stays before the film begins again
CHAR, LINE, EDGE = 8.4, 18, 14  # pixels
COLOURS = {
    "default": "#d5d9de",
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#f5f6f7",
}
Row = tuple[tuple[str, str, bool], ...]  # runs of one look: text, colour, bold


def record(command: list[str], environ: dict[str, str]) -> tuple[list[tuple[float, tuple[Row, ...]]], int]:
    """Run a command in a terminal; its screens with the seconds for which each stood, and its exit code."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], command, {**environ, "TERM": "xterm-256color"})  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    frames: list[tuple[float, tuple[Row, ...]]] = []
    began = time.monotonic()
    while True:
        if select.select([terminal], [], [], FRAME_S)[0]:
            try:
                read = os.read(terminal, 1 << 16)
            except OSError:  # EIO: the command has ended
                read = b""
            if not read:
                break
            stream.feed(read)
        now = time.monotonic()
        if now - began >= FRAME_S:
            _add(frames, now - began, _rows(screen))
            began = now
    os.close(terminal)
    _add(frames, LAST_S, _rows(screen))
    return frames, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _add(frames: list[tuple[float, tuple[Row, ...]]], stood_s: float, rows: tuple[Row, ...]) -> None:
    if frames and frames[-1][1] == rows:
        stood_s += frames.pop()[0]
    frames.append((stood_s, rows))


def _rows(screen: pyte.Screen) -> tuple[Row, ...]:
    rows = []
    for y in range(LINES):
        cells = [screen.buffer[y][x] for x in range(COLUMNS)]
        runs = [
            ("".join(cell.data for cell in run), look[0], look[1])
            for look, run in ((look, list(run)) for look, run in groupby(cells, lambda cell: (cell.fg, cell.bold)))
        ]
        while runs and not runs[-1][0].strip():
            runs.pop()
        rows.append(tuple(runs))
    return tuple(rows)


def svg(frames: list[tuple[float, tuple[Row, ...]]], title: str) -> str:
    """Make the picture: each different line once, and a film of screens that use them."""
    known: dict[Row, str] = {}
    film, keys, at = [], [], 0.0
    width, height = round(COLUMNS * CHAR + 2 * EDGE), LINES * LINE + 2 * EDGE
    whole = sum(stood_s for stood_s, _ in frames)
    for number, (stood_s, rows) in enumerate(frames):
        keys.append(f"{100 * at / whole:.3f}%{{transform:translateX({-number * width}px)}}")
        at += stood_s
        uses = []
        for y, row in enumerate(rows):
            if row:
                name = known.setdefault(row, f"r{len(known)}")
                uses.append(f'<use href="#{name}" y="{EDGE + y * LINE}"/>')
        film.append(f'<g transform="translate({number * width + EDGE})">{"".join(uses)}</g>')
    lines = "\n".join(f'<text id="{name}" y="{LINE - 5}">{_spans(row)}</text>' for row, name in known.items())
    classes = "".join(f".{name}{{fill:{colour}}}" for name, colour in COLOURS.items())
    last = -(len(frames) - 1) * width
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>{html.escape(title)}</title>
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}}
.bold{{font-weight:bold}}{classes}
.film{{animation:film {whole:.1f}s steps(1,end) infinite}}
@keyframes film{{{"".join(keys)}}}
@media(prefers-reduced-motion:reduce){{.film{{animation:none;transform:translateX({last}px)}}}}
</style>
<defs>
{lines}
</defs>
<rect width="100%" height="100%" rx="8" fill="#1e2127"/>
<g class="film" fill="{COLOURS["default"]}">
{chr(10).join(film)}
</g>
</svg>
"""


def _spans(row: Row) -> str:
    """The words of a line, each group of them at its column: not every viewer keeps blanks."""
    parts, x = [], 0
    for text, colour, bold in row:
        looks = [colour] if colour in COLOURS and colour != "default" else []
        looks += ["bold"] * bold
        attributes = f' class="{" ".join(looks)}"' if looks else ""
        if colour not in COLOURS:  # one of 256: pyte gives its six hexadecimal digits
            attributes += f' fill="#{colour}"'
        for words in re.finditer(r"\S+(?: \S+)*", text):
            at, length = (x + words.start()) * CHAR, len(words[0]) * CHAR
            stretched = f' textLength="{length:.1f}"' if len(words[0]) > 1 else ""
            parts.append(f'<tspan x="{at:.1f}"{stretched}{attributes}>{html.escape(words[0], quote=False)}</tspan>')
        x += len(text)
    return "".join(parts)


def main() -> int:
    """Record, and write the file where the command went well."""
    words = sys.argv[1:] or [str(HOUSE / "docs/demo.svg"), str(Path(sys.executable).with_name("orch")), "demo"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}
    frames, code = record(words[1:], environ)
    if code == 0:
        shown = " ".join([Path(words[1]).name, *words[2:]])
        Path(words[0]).write_text(svg(frames, f"A terminal in which `{shown}` runs"))
        print(f"{words[0]}: {len(frames)} screens, {sum(stood_s for stood_s, _ in frames):.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
