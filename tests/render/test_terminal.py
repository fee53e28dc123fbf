"""What people see on a terminal: looked at in a real one (tmux), at several widths, through a resize and Ctrl-C."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from orchestrator.cli.mirrors import HEADER
from orchestrator.demo.server import Origin
from orchestrator.render.table import Column, elide, table
from orchestrator.render.terminal import Screen, wants_colour, wrap
from orchestrator.text import cells
from tests.orch import Orch, made, sha256
from tests.servers import require

MIB = 1 << 20
MARK = "what stood there before"
END = "ended with"
PATIENCE_S = 60


class Terminal:
    """A tmux of its own, with one window in which one command runs."""

    def __init__(self, orch: Orch, *, columns: int, rows: int) -> None:
        self._orch, self._columns, self._rows = orch, columns, rows
        self._socket = str(orch.folder / "tmux")

    def run(self, *words: str, marks: int = 1) -> None:
        """Start orch below so many lines; the manifest is written first."""
        self._orch.write()
        command = shlex.join([sys.executable, "-m", "orchestrator", *words])
        script = f"trap : INT; {f'echo {shlex.quote(MARK)};' * marks} {command}; echo {END} $?; exec sleep 600"
        env = {**self._orch.env(), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(Path(__file__).parents[2])}
        size = ("-x", str(self._columns), "-y", str(self._rows))
        argv = ["env", *(f"{key}={value}" for key, value in env.items()), "sh", "-c", script]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(self._orch.folder), shlex.join(argv))

    def _tmux(self, *words: str, check: bool = True) -> str:
        argv = [require("tmux"), "-u", "-S", self._socket, *words]
        return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=30).stdout

    def lines(self, *, history: bool = False) -> list[str]:
        """What stands on the screen, and with `history` what was above it."""
        shown = self._tmux("capture-pane", "-p", *(("-S", "-") if history else ())).split("\n")
        return [line.rstrip() for line in shown if line.strip()]

    def until(self, holds: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is as it should be."""
        end = time.monotonic() + PATIENCE_S
        while not holds(lines := self.lines()):
            assert time.monotonic() < end, "\n".join(lines)
            time.sleep(0.05)
        return lines

    def ended(self) -> list[str]:
        """Wait for the command's end."""
        return self.until(lambda lines: any(line.startswith(END) for line in lines))

    def state(self, name: str) -> int:
        """A number that tmux knows of the window: `history_size`, `cursor_flag`, `cursor_x`."""
        return int(self._tmux("display-message", "-p", f"#{{{name}}}"))

    def resize(self, columns: int) -> None:
        """Change the width, which the program is told by SIGWINCH."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(self._rows))

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def close(self) -> None:
        self._tmux("kill-server", check=False)


@pytest.fixture
def opened(orch: Orch) -> Iterator[Callable[[int, int], Terminal]]:
    terminals = []

    def open_(columns: int, rows: int) -> Terminal:
        terminals.append(Terminal(orch, columns=columns, rows=rows))
        return terminals[-1]

    require("tmux")
    try:
        yield open_
    finally:
        for terminal in terminals:
            terminal.close()


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


FILES = {
    "resnet50": "resnet50.pth",
    "模型-大": "权重文件.bin",
    "llama-3-8b-instruct": "model-00001-of-00004-with-a-name-that-is-longer-than-a-row.safetensors",
    "clip": "open_clip.bin",
}


def _want_slow_files(orch: Orch, origin: Origin, rate: int = MIB // 2) -> None:
    for number, (model, name) in enumerate(FILES.items()):
        content = made(3 * MIB + number, number)
        orch.want(model, content, origin.serve(f"/{number}.bin", content, rate=rate), to=f"models/{name}")


def _bars(lines: list[str]) -> list[str]:
    """The rows that are bars, by the time left at their end."""
    return [line for line in lines if line.endswith("--:--") or line[-3:-2] == ":"]


def _shows_all(lines: list[str]) -> bool:
    bars = _bars(lines)
    return len(bars) == 1 + len(FILES) and not any(bar.endswith("--:--") for bar in bars)


@pytest.mark.parametrize("columns", [40, 200])
def test_bars_stand_below_each_other_and_end_with_what_failed(
    orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal], columns: int
) -> None:
    _want_slow_files(orch, origin)
    content = made(1000)
    orch.want("gone", content, origin.serve("/gone.bin", content, status=404))
    terminal = opened(columns, 24)
    terminal.run("sync", "--connections", "8", "--jobs", "5", "--retries", "0", "team.yaml")
    lines = terminal.until(_shows_all)
    bars = _bars(lines)
    assert bars[0].startswith("total")
    assert len({cells(bar) for bar in bars}) == 1, "\n".join(bars)  # wide characters too
    assert cells(bars[0]) < columns
    assert lines[0] == MARK
    assert terminal.state("history_size") == 0
    assert terminal.state("cursor_flag") == 1
    lines = terminal.until(lambda lines: any(line.startswith(END) for line in lines))
    text = "\n".join(lines)
    assert not _bars(lines)
    closing = next(number for number, line in enumerate(lines) if line.startswith("sync: 4 downloaded, 1 failed"))
    assert text.index("FILE") < text.index("sync: ") < text.index("error: gone") < text.index("hint: ")
    names = [line.split("  ")[0] for line in lines[:closing] if "3.0M" in line]
    assert len(names) == len(FILES)
    if columns >= 60:
        assert all(" downloaded  " in line for line in lines[:closing] if "3.0M" in line), text
    if columns == 200:
        assert {f"{model}/{number}.bin" for number, model in enumerate(FILES)} == set(names)


def test_rows_that_were_made_for_a_wider_terminal_are_cut_and_leave_nothing() -> None:
    # The width changes after it was asked for, before the rows arrive: `Screen` takes a file for 80 columns wide.
    shown = pyte.Screen(50, 8)
    stream, out = pyte.Stream(shown), io.StringIO(newline="\r\n")
    screen = Screen(out)
    for rows in (["a" * 79, "b" * 79, "c" * 79], ["d" * 40, "e" * 40]):
        screen.draw(rows)
        stream.feed(out.getvalue())
        out.seek(0), out.truncate()
    screen.print("f" * 79)
    stream.feed(out.getvalue())
    assert [line.rstrip() for line in shown.display] == ["f" * 50, "f" * 29, *[""] * 6]


def test_a_resize_leaves_no_half_lines(orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal]) -> None:
    _want_slow_files(orch, origin, rate=MIB // 16)
    terminal = opened(120, 24)
    terminal.run("sync", "--connections", "8", "team.yaml", marks=24)  # as after some work: the screen is full
    terminal.until(_shows_all)
    for columns in (50, 110, 70):
        terminal.resize(columns)
        # Each row fits again, and none of another width is left.
        terminal.until(
            lambda lines, columns=columns: _shows_all(lines) and columns - 40 < cells(_bars(lines)[0]) < columns
        )
        lines = terminal.lines(history=True)
        assert lines == [MARK] * 24 + _bars(lines), "\n".join(lines)


def test_ctrl_c_leaves_a_whole_terminal(orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal]) -> None:
    _want_slow_files(orch, origin, rate=MIB // 8)
    terminal = opened(80, 24)
    terminal.run("sync", "--connections", "8", "team.yaml")
    terminal.until(_shows_all)
    terminal.press("C-c")
    lines = terminal.ended()
    assert lines[-1] == f"{END} 130"
    assert lines[0] == MARK
    assert not _bars(lines)
    closing = next(line for line in lines if line.startswith("sync: "))
    assert "interrupted" in closing
    assert "interrupted; the bytes downloaded so far are kept" in lines
    assert "failed" not in closing
    assert not any(line.startswith("error") for line in lines)
    assert terminal.state("cursor_flag") == 1


def test_more_bars_than_rows_do_not_scroll(orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal]) -> None:
    for number in range(12):
        content = made(3 * MIB, number)
        orch.want(f"m{number}", content, origin.serve(f"/{number}.bin", content, rate=MIB // 4))
    terminal = opened(80, 6)
    terminal.run("sync", "--jobs", "12", "--connections", "64", "team.yaml")
    lines = terminal.until(lambda lines: any(line.endswith(" more") for line in lines))
    assert lines[0] == MARK
    assert lines[1].startswith("total")
    assert len(lines) == 6
    assert terminal.state("history_size") == 0
    terminal.press("C-c")
    terminal.ended()


SLOW_SUM = """#!{python}
import hashlib, sys, time
for line in sys.stdin.buffer.read().splitlines():
    digest, path = line[:64].decode(), line[66:].decode()
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
            time.sleep({pause_s})
    print(f"{{path}}: OK" if hasher.hexdigest() == digest else f"{{path}}: FAILED", flush=True)
"""


def test_a_long_reading_has_bars_above_which_the_rows_come(
    orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal]
) -> None:
    columns = 60
    for number, (model, name) in enumerate(FILES.items()):
        content = made(8 * MIB, number)
        orch.want(model, content, origin.serve(f"/{number}.bin", content), to=f"models/{name}")
    assert orch.run("sync", "team.yaml").code == 0
    slow = orch.folder / "slow-sha256sum"
    slow.write_text(SLOW_SUM.format(python=sys.executable, pause_s=0.4))
    slow.chmod(0o755)
    orch.environ["ORCH_SHA256SUM"] = str(slow)
    terminal = opened(columns, 24)
    terminal.run("verify", "team.yaml")
    lines = terminal.until(lambda lines: len(_bars(lines)) == 2)
    assert _bars(lines)[0].startswith("total")
    assert terminal.state("history_size") == 0
    lines = terminal.ended()
    assert lines[0] == MARK
    assert lines[1].split() == ["STATE", "FILE", "SIZE"]
    assert [line.split()[0] for line in lines[2:6]] == ["good"] * 4
    assert {cells(line) for line in lines[1:6]} == {columns}
    assert lines[6].startswith("verify: 4 present in ")


@pytest.mark.parametrize("columns", [60, 200])
def test_tables_fit_the_terminal_and_pipes_get_the_full_text(
    orch: Orch, origin: Origin, opened: Callable[[int, int], Terminal], columns: int
) -> None:
    _want_slow_files(orch, origin)
    content = made(1000)
    foreign = orch.want("foreign", content, origin.serve("/foreign.bin", content))
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    for command, head in (("plan", "ACTION"), ("status", "STATE")):
        terminal = opened(columns, 24)
        terminal.run(command, "team.yaml")
        lines = terminal.ended()
        terminal.close()
        rows = lines[1 : 2 + len(FILES)]
        assert rows[0].startswith(head)
        size_ends = rows[0].index("SIZE") + 4
        for row in rows[1:]:
            assert cells(row) <= columns
            assert row[: _index_of_cell(row, size_ends)].endswith("3.0M"), "\n".join(rows)
        assert any(line.startswith("foreign:") for line in lines)
        assert any(line.startswith("hint: ") for line in lines)
        piped = orch.run(command, "team.yaml").out
        assert "…" not in piped
        assert all(f"{model}/{number}.bin" in piped for number, model in enumerate(FILES))


def test_the_table_of_mirrors_fits_forty_columns() -> None:
    row = (
        "https://mirror.example.org/weights/",
        "prefix mirror",
        "yes",
        "31 ms",
        "101.5M/s",
        "yes",
        "yes",
        "-",
        "never",
        "",
    )
    assert max(map(cells, table(HEADER, [row], 40))) <= 40


def _index_of_cell(text: str, cell: int) -> int:
    """The index of the character behind so many cells."""
    return next(number for number in range(len(text) + 1) if cells(text[:number]) == cell)


def test_columns_are_cut_in_the_middle_before_one_is_left_out() -> None:
    columns = (Column("STATE"), Column("FILE", least=8), Column("SIZE", right=True), Column("FROM", least=8, rank=1))
    rows = [("good", "模型-大/weights.safetensors", "1.0G", "huggingface.co"), ("absent", "a", "12 B", "h")]
    full = list(table(columns, rows, None))
    assert full[1] == "good    模型-大/weights.safetensors  1.0G  huggingface.co"
    for width in range(28, 60):
        lines = list(table(columns, rows, width))
        assert max(map(cells, lines)) <= width
        assert ("FROM" in lines[0]) == (width >= 32)
    assert list(table(columns, rows, 60)) == full
    assert elide("模型模型模型", 7) == "模…型"
    assert elide("model-00001-of-00004.safetensors", 16) == "model-00…tensors"


@pytest.mark.parametrize(
    ("choice", "environ", "is_terminal", "wanted"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),  # no-color.org: "when present and not an empty string"
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_on_colours(choice: str, environ: dict[str, str], is_terminal: bool, wanted: bool) -> None:
    class Out(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    assert wants_colour(choice, environ, Out()) is wanted


def test_color_is_an_option_of_all_commands_and_before_them(orch: Orch, origin: Origin) -> None:
    content = made(1000)
    orch.models["w"] = {"url": origin.serve("/w"), "sha256": sha256(content), "to": "models/"}
    red, bold = "\x1b[31m", "\x1b[1m"
    assert red not in orch.run("status", "team.yaml").out
    for words in (("status", "--color", "always"), ("--color", "always", "status")):
        assert red in orch.run(*words, "team.yaml").out
    assert red in orch.run("sync", "--color", "always", "--retries", "0", "team.yaml").err
    assert bold in orch.run("backends", "--color=always").out
    orch.environ["FORCE_COLOR"] = "1"
    assert red in orch.run("status", "team.yaml").out
    assert "\x1b" not in orch.run("status", "--color", "never", "team.yaml").out
    assert "\x1b" not in orch.run("status", "--json", "team.yaml").out
    orch.environ["NO_COLOR"] = "1"
    assert "\x1b" not in orch.run("status", "team.yaml").out


def test_an_error_of_the_command_line_is_wrapped_at_blanks(orch: Orch, opened: Callable[[int, int], Terminal]) -> None:
    orch.environ["ORCH_STALLL"] = "30s"
    terminal = opened(60, 24)
    terminal.run("sync", "--stall", "12xhours", "team.yaml")
    lines = terminal.ended()
    assert lines[-1] == f"{END} 2"
    assert "warning: ORCH_STALLL is not a variable of orch (did you mean" in lines
    assert "error: invalid value for '--stall' (env var: 'ORCH_STALL'):" in lines
    assert "hint: `orch sync --help` shows the usage and examples" in lines


def test_a_command_that_is_to_be_typed_stays_in_one_line() -> None:
    hint = "hint: compare the checksum with that of its publisher, then run `orch sync team.yaml` and look"
    assert wrap(hint, 80).split("\n") == [hint[: hint.index("`") - 1], hint[hint.index("`") :]]
    long = f"hint: run `orch sync {'x' * 60} --force {'y' * 10}` again"
    assert wrap(long, 60).replace("\n", " ") == long, "one that fits in no line is wrapped as all else"
