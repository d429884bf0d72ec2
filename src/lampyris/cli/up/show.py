"""What happens in a centre → lines on stdout, when and who and what; on a terminal also what is going on just now."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_WHO = 8
_STYLE = {"scanner": "cyan", "site": "magenta", "centre": "blue", "worker": "green", "you": "yellow"}


class Show:
    """Lines for a person. On a pipe or a file nothing moves and nothing is coloured."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._began = time.monotonic()
        self._live: Live | None = None

    @contextmanager
    def moving(self) -> Iterator[None]:
        """While this lasts, `now` shows what is going on, in one line below all others."""
        if not self._console.is_terminal:
            yield
            return
        with Live(Text(""), console=self._console, transient=True, refresh_per_second=8) as self._live:
            yield
        self._live = None

    def title(self, name: str, rest: str) -> None:
        self._print(Text.assemble((name, "bold yellow"), (f"  {rest}", "bold")))

    def plain(self, text: str = "", style: str = "") -> None:
        self._print(Text(text, style))

    def facts(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Name, value and what it is for, one to a line; a value that is a path can be opened from the terminal."""
        first = max(len(name) for name, _, _ in rows)
        second = max(len(value) for _, value, told in rows if told)
        for name, value, told in rows:
            link = f"link {Path(value).absolute().as_uri()}" if Path(value).exists() else ""
            padding = " " * (second - len(value) + 3) if told else ""
            self._print(Text.assemble((f"  {name:<{first}}  ", "bold"), (value, link), (f"{padding}{told}", "dim")))

    def said(self, who: str, text: str, style: str = "") -> None:
        """Somebody did something, this long after the start."""
        when = f"{time.monotonic() - self._began:7.1f} s  "
        self._print(Text.assemble((when, "dim"), (f"{who:<{_WHO}}  ", _STYLE[who]), (text, style)))

    def place(self, path: Path) -> str:
        """How a path is best read: from here, if it is below here."""
        whole = path.absolute()
        return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)

    def path(self, path: Path) -> None:
        """A path below what was said, on a line of its own, so that it can be clicked on or copied."""
        self._print(Text.assemble(" " * 21, (self.place(path), f"link {path.absolute().as_uri()}")))

    def now(self, who: str, text: str, done: float | None = None) -> None:
        """What is going on; `done` is the fraction of it that is."""
        if self._live is None:
            return
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [Spinner("dots", style="yellow"), Text(who, _STYLE[who]), Text(text)]
        if done is not None:
            cells += [ProgressBar(total=1.0, completed=done, width=32), Text(f"{100 * done:3.0f} %")]
        row.add_row(*cells)
        self._live.update(row)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)
