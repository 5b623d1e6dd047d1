"""The base of a command line over `Reranker`: errors as one line and an exit code, `--version`, consoles.

Public: `qwen-rerank` and `opensearch-qwen-rerank` are built on it, and other command lines can be. Knows no command.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from qwen_rerank_plugins import errors
from qwen_rerank_plugins.errors import ConfigurationError, InputError, MissingDependencyError, RerankError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_FAILED",
    "EXIT_USAGE",
    "Config",
    "Debug",
    "make_app",
    "make_console",
    "report_errors",
    "show_status",
    "version_option",
]

EXIT_FAILED = 1
"""Exit code of a command that failed although it was used correctly."""

EXIT_USAGE = 2
"""Exit code of a command with an invalid option, setting or input."""

Config = Annotated[str | None, typer.Option(help="YAML or TOML file with settings.", metavar="FILE")]
"""Type of a command's parameter `config`: the option `--config FILE`."""

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
"""Type of a command's parameter `debug`: the option `--debug`, for `report_errors`."""


@contextmanager
def report_errors(program: str, *, debug: bool) -> Iterator[None]:
    """Report an error as one line on standard error and an exit code; a closed standard output is not an error.

    Args:
        program: The command's name, with which the line begins.
        debug: Print the traceback as well.

    Raises:
        typer.Exit: With `EXIT_USAGE` or `EXIT_FAILED` after an error, with 0 if standard output was closed by its reader.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 (every error is reported)
        _fail(program, error, debug=debug)


def _fail(program: str, error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    text = " ".join(str(error).split())
    if isinstance(error, RerankError):
        name = _documented_name(error)
        text = f"{text} (see docs/errors.md#{name.lower()})" if name else text
    else:
        hint = "" if debug else " (unexpected; --debug shows the traceback)"
        text = f"{type(error).__name__}: {text}{hint}"
    typer.echo(f"{program}: error: {text}", err=True)
    usage = isinstance(error, InputError | ConfigurationError) and not isinstance(
        error, MissingDependencyError
    )
    raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILED) from None


def _documented_name(error: RerankError) -> str:
    """Return the name of an error's class, or of the nearest base that says more than that it is a `RerankError`."""
    known = (kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return next((kind.__name__ for kind in known if kind is not RerankError), "")


def make_app(program: str) -> typer.Typer:
    """Return an application without commands, with plain-text help and without typer's own tracebacks."""
    return typer.Typer(
        name=program,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def version_option(program: str, version: str) -> Any:
    """Return the option `--version`, to annotate a bool parameter with."""

    def callback(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
        if wanted:
            typer.echo(f"{program} {version}")
            raise typer.Exit

    return typer.Option("--version", help="Print the version.", callback=callback, is_eager=True)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that replaces what its stream cannot encode, and prints text as it is, without markup."""
    from rich.console import Console

    stream: Any = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, markup=False, emoji=False, highlight=False)


@contextmanager
def show_status(text: str) -> Iterator[Callable[[str], None]]:
    """Show a status line if standard error is a terminal; yields the function that changes its text.

    A model that is downloaded meanwhile shows its progress there.
    """
    from qwen_rerank_plugins.core.checkpoints.hub import progress_shown_by

    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda _step: None
        return
    with console.status(text) as status, progress_shown_by(status.update):
        yield status.update
