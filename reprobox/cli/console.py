"""All that reprobox writes to the terminal. With `--json` standard output carries one object and nothing else.

Either may go away meanwhile: see `screen`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import click

from reprobox.cli.screen import output_lost
from reprobox.errors import EXIT_USAGE, ReproboxError, StorageError
from reprobox.progress import Observer

LABEL_WIDTH = 9
REFRESH_SECONDS = 0.1
SAY_SECONDS = 15.0


class Console(Observer):
    """Draws progress: a line for each finished phase, one passing line at the bottom for what goes on.

    With `as_json` everything goes to standard error and `result` alone writes to standard output. Without a terminal
    there is no passing line; what takes long is said when it begins and now and then after that.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        """Look at where the output goes; nothing is written yet."""
        self.as_json = as_json
        self._out: TextIO = sys.stderr if as_json else sys.stdout
        self._live = sys.stderr.isatty()
        self._passing = False
        self._said = ""
        self._drawn = 0.0
        self._at_line_start = True
        self._first_step: tuple[float, int] | None = None
        self._step_line = ""

    def line(self, text: str = "") -> None:
        """Write one line for a person."""
        self._clear()
        click.echo(text, file=self._out)

    def document(self, text: str) -> None:
        """Write a document to standard output, exactly; with JSON it is part of the object instead.

        Raises StorageError where it does not arrive though somebody wants it: what is asked for is the document alone.
        """
        self._clear()
        if not self.as_json:
            click.echo(text, nl=False)
            if (lost := output_lost()) is not None:
                raise StorageError(f"standard output cannot be written: {lost.strerror}")

    def field(self, label: str, text: str) -> None:
        """Write a labelled line, labels aligned."""
        self.line(click.style(f"{label:<{LABEL_WIDTH}}", dim=True) + " " + text)

    def result(self, data: Mapping[str, Any]) -> None:
        """Write the one JSON object, if JSON was asked for."""
        if self.as_json:
            click.echo(json.dumps(data, ensure_ascii=False))

    def working(self, phase: str, text: str, done: int | None = None, total: int | None = None) -> None:
        """Draw what goes on; without a terminal say it when the phase begins, and again when it takes long."""
        if not self._live:
            now = time.monotonic()
            if phase != self._said or now - self._drawn > SAY_SECONDS:
                self._said, self._drawn = phase, now
                click.echo(f"{phase:<{LABEL_WIDTH}} {text} ...", file=sys.stderr)
            return
        if done is not None and total:
            text += f"  {100 * done // total} %"
        self._draw(f"{phase:<{LABEL_WIDTH}} {text}")

    def finished(self, phase: str, text: str, note: str = "") -> None:
        """Write what a phase came to."""
        self.field(phase, text + (click.style(f"   {note}", dim=True) if note else ""))

    def warning(self, text: str) -> None:
        """Write a warning to standard error."""
        self._clear()
        click.echo(click.style("warning", fg="yellow") + "   " + text, err=True)

    def training_started(self) -> None:
        """Draw the line above the program's own output."""
        self.rule()
        self._draw(f"{'train':<{LABEL_WIDTH}} starting the program")

    def training_ended(self) -> None:
        """Draw the line below the program's own output."""
        self._clear()
        if not self._at_line_start:
            click.echo(file=self._out)
        self.rule()

    def rule(self) -> None:
        """Draw a line across the screen."""
        self.line(click.style("─" * min(shutil.get_terminal_size().columns, 78), dim=True))

    def output(self, stream: str, data: bytes) -> None:
        """Pass on the program's bytes, unchanged."""
        self._clear()
        target = sys.stderr if stream == "stderr" else self._out
        target.buffer.write(data)
        target.flush()
        self._at_line_start = data.endswith((b"\n", b"\r"))
        if self._step_line and self._at_line_start:
            self._draw(self._step_line)

    def step(self, done: int, total: int | None, loss: str | None) -> None:
        """Draw step, loss, rate and, where the total is known, the time left."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = (now, done)
        started, before = self._first_step
        self._step_line = f"{'train':<{LABEL_WIDTH}} step {done}" + (f"/{total}" if total else "")
        if loss is not None:
            self._step_line += f"   loss {loss}"
        if now > started and done > before:
            rate = (done - before) / (now - started)
            self._step_line += f"   {rate:.1f} steps/s"
            if total:
                self._step_line += f"   {(total - done) / rate:.0f} s left"
        if self._at_line_start:
            self._draw(self._step_line)

    def _draw(self, text: str) -> None:
        if not self._live or (self._passing and time.monotonic() - self._drawn < REFRESH_SECONDS):
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + text[:width])
        sys.stderr.flush()
        self._drawn = time.monotonic()
        self._passing = True

    def _clear(self) -> None:
        if self._passing:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._passing = False


def report_error(error: ReproboxError, *, as_json: bool) -> None:
    """Say what went wrong and what to do, to a person and, with `--json`, to a program too."""
    click.echo(click.style("error", fg="red") + ": " + error.message, err=True)
    for detail in error.details:
        click.echo("       " + detail, err=True)
    if error.hint:
        click.echo("       " + click.style(error.hint, bold=True), err=True)
    if as_json:
        _error_object(error.message, list(error.details), error.hint, error.exit_code, list(error.needs))


def report_usage(message: str, *, as_json: bool) -> None:
    """Tell a program what click has told the person: a command line that cannot be understood."""
    if as_json:
        _error_object(message, [], "see --help", EXIT_USAGE)


def _error_object(
    message: str, details: list[str], hint: str | None, exit_code: int, needs: list[str] | None = None
) -> None:
    data: dict[str, Any] = {"error": message, "details": details, "hint": hint, "exit_code": exit_code}
    if needs:
        data["needs"] = needs
    click.echo(json.dumps(data, ensure_ascii=False))


def report_traceback(error: BaseException) -> None:
    """Show where an error came from: of a bug of reprobox's own, which it helps to find."""
    import traceback

    traceback.print_exception(error)


def report_bug(error: Exception, *, as_json: bool) -> None:
    """Show a bug of reprobox's own with its traceback."""
    report_traceback(error)
    click.echo("error: this is a bug in reprobox; please report it with the traceback above", err=True)
    if as_json:
        click.echo(json.dumps({"error": f"bug: {type(error).__name__}: {error}", "exit_code": 70}))
