"""Behaviour that all commands share: errors as one line with an exit code, also when the output is closed."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest
import typer

from qwen_rerank_plugins.cli import console
from qwen_rerank_plugins.cli.console import EXIT_FAILED, EXIT_USAGE, report_errors
from qwen_rerank_plugins.core.checkpoints import hub
from qwen_rerank_plugins.errors import (
    ConfigurationError,
    EngineError,
    InputError,
    MissingDependencyError,
    RerankError,
)


class IntegrationError(RerankError):
    """The error class of an integration."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("no\n such file"), EXIT_USAGE, "no such file (see docs/errors.md#inputerror)"),
        (ConfigurationError("unknown"), EXIT_USAGE, "unknown (see docs/errors.md#configurationerror)"),
        (
            MissingDependencyError("pip install it"),
            EXIT_FAILED,
            "pip install it (see docs/errors.md#missingdependencyerror)",
        ),
        (EngineError("failed"), EXIT_FAILED, "failed (see docs/errors.md#engineerror)"),
        (IntegrationError("refused"), EXIT_FAILED, "refused"),
        (ValueError("odd"), EXIT_FAILED, "ValueError: odd (unexpected; --debug shows the traceback)"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, report_errors("rank-it", debug=False):
        raise error
    assert caught.value.exit_code == status
    assert capsys.readouterr().err == f"rank-it: error: {line}\n"


def test_debug_shows_where_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), report_errors("rank-it", debug=True):
        raise ValueError("odd")
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("rank-it: error: ValueError: odd\n")


def test_an_exit_and_an_interruption_pass() -> None:
    with pytest.raises(typer.Exit) as caught, report_errors("rank-it", debug=False):
        raise typer.Exit(3)
    assert caught.value.exit_code == 3
    with pytest.raises(KeyboardInterrupt), report_errors("rank-it", debug=False):
        raise KeyboardInterrupt


def test_a_reader_that_goes_away_ends_any_command_in_silence() -> None:
    code = """
from qwen_rerank_plugins.cli.console import report_errors
import typer

def main() -> None:
    with report_errors("rank-it", debug=False):
        for number in range(100_000):
            print(number)

typer.run(main)
"""
    script = f"'{sys.executable}' -c '{code.replace(chr(39), chr(34))}' | head -n 1; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=60, text=True)
    assert (done.stdout, done.stderr) == ("0\n0 0\n", "")


def test_a_console_takes_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No markup, no emoji codes; what the stream cannot encode is replaced."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.make_console().print("[red]:whale: 鲸")
    stream.flush()
    assert stream.buffer.getvalue() == b"[red]:whale: ?\n"


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_status_line_shows_the_progress_of_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with console.show_status("loading the model"):
        hub._Progress("org/name", "modelscope").announce(21_000_000)
        time.sleep(0.3)  # the line is drawn several times a second
    assert "downloading org/name from https://modelscope.cn" in screen.getvalue()
    hub._Progress("org/other", "modelscope").announce(1)
    assert "org/other" not in screen.getvalue()


def test_a_status_is_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.show_status("loading the model") as on_step:
        on_step("another step")
    assert capsys.readouterr().err == ""
