"""What the project's command lines do alike: errors as one line and an exit code, `--version`, consoles.

For a command line of your own over `Reranker` too. Knows no option of any command.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

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
"""The command was right, and something failed."""

EXIT_USAGE = 2
"""An option, a setting or the input is not what it must be."""

Config = Annotated[str | None, typer.Option(help="YAML or TOML file with settings.", metavar="FILE")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def report_errors(program: str, *, debug: bool) -> Iterator[None]:
    """Turn errors into one line on standard error and an exit code; a reader that went away is no error.

    Args:
        program: The command's name, which the line begins with.
        debug: Show the traceback too.

    Raises:
        typer.Exit: With `EXIT_USAGE` or `EXIT_FAILED`, after an error; with 0 where nobody reads standard output any more.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at exit; it shall find something to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, a person reads it)
        _fail(program, error, debug=debug)


def _fail(program: str, error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    text = " ".join(str(error).split())
    if not isinstance(error, RerankError):
        hint = "" if debug else " (unexpected; --debug shows the traceback)"
        text = f"{type(error).__name__}: {text}{hint}"
    typer.echo(f"{program}: error: {text}", err=True)
    usage = isinstance(error, InputError | ConfigurationError) and not isinstance(
        error, MissingDependencyError
    )
    raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILED) from None


def make_app(program: str) -> typer.Typer:
    """Give a command line without commands yet, whose help is plain text and whose errors are `report_errors`'."""
    return typer.Typer(
        name=program,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def version_option(program: str, version: str) -> Any:
    """Give the option `--version`, for the annotation of a bool."""

    def callback(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
        if wanted:
            typer.echo(f"{program} {version}")
            raise typer.Exit

    return typer.Option("--version", help="Print the version.", callback=callback, is_eager=True)


def make_console(*, stderr: bool = False) -> Console:
    """Give a console that writes what its stream can encode, and takes no text for markup."""
    from rich.console import Console

    stream: Any = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Console(file=stream, markup=False, emoji=False, highlight=False)


@contextmanager
def show_status(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, on a terminal only; the function that is given changes the text."""
    console = make_console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext() as status:
        yield lambda step: status.update(step) if status else None
