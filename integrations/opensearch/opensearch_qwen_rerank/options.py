"""Generates one command-line option per setting from the settings model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, get_args

import typer

from opensearch_qwen_rerank.settings import OpenSearchSettings

__all__ = ["CONNECTION_SETTINGS", "add_setting_options"]

CONNECTION_SETTINGS: Final = (
    "cluster",
    "username",
    "password_env",
    "password_file",
    "ca_certs",
    "client_cert",
    "client_key",
    "verify_certs",
    "aws_region",
    "aws_service",
    "timeout_s",
    "pipeline",
)
"""The settings that all commands need."""


def add_setting_options(
    names: Iterable[str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option per setting to a command, which receives the given ones as its first argument.

    Args:
        names: The settings; None for all.
    """
    chosen = list(OpenSearchSettings.model_fields if names is None else names)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = list(signature.parameters.values())[1:]

        def run(**options: Any) -> None:
            given = {name: options.pop(name) for name in chosen}
            command({name: value for name, value in given.items() if value is not None}, **options)

        made = [_parameter(name) for name in chosen]
        run.__name__ = command.__name__
        # A raw docstring has "\b" as two characters; click needs the control character to keep the lines of the examples.
        run.__doc__ = (command.__doc__ or "").replace("\\b\n", "\b\n")
        vars(run)["__signature__"] = signature.replace(parameters=[*made, *own])
        run.__annotations__ = {one.name: one.annotation for one in [*made, *own]}
        return run

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    field = OpenSearchSettings.model_fields[name]
    default = _shown(field.default)
    text = f"{field.description}{f' [default: {default}]' if default else ''}"
    is_flag = field.annotation is bool or bool in get_args(field.annotation)
    kind: Any = bool | None if is_flag else str | None
    metavar = None if is_flag else _metavar(field.annotation, field.metadata)
    option: Any = typer.Option(help=text, metavar=metavar)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _shown(value: Any) -> str:
    if value is None or value == ():
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(annotation: Any, metadata: Iterable[object]) -> str:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    bounded = annotation in {int, float} or any(isinstance(one, Mapping) for one in metadata)
    return "N" if bounded else "TEXT"
