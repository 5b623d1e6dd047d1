"""The raw layers that a configuration is read from: a file's mapping and the environment's variables.

Nothing here knows which settings exist or what they may hold: `config.py` passes the names in and checks the
values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qwen_rerank_plugins.config.names import nearest_name
from qwen_rerank_plugins.errors import ConfigurationError

ENV_PREFIX = "QWEN_RERANK_"
CONFIG_VARIABLE = "QWEN_RERANK_CONFIG"
ENV_SECTIONS = ("service", "opensearch", "batch")
"""Sections whose keys may come from variables: QWEN_RERANK_SERVICE_PORT is `port` in `service`."""

_KUBERNETES_LINK = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_KUBERNETES_PORT = re.compile(r"PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def unknown_setting(name: object, known: Iterable[str], origin: str | None) -> ConfigurationError:
    """Give the error for a setting that does not exist; it names the nearest one that does, and where it came from."""
    hint = nearest_name(str(name), known)
    place = "" if origin is None else f" ({origin})"
    return ConfigurationError(f"unknown setting {name!r}{place}; the nearest known one is {hint!r}")


def read_file(path: Path) -> dict[str, Any]:
    """Read a YAML or TOML file, chosen by its suffix, into a mapping; an empty file gives an empty one.

    Raises:
        ConfigurationError: The file is missing, of another kind, broken, or holds no mapping.
    """
    parse = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}.get(path.suffix.lower())
    if parse is None:
        message = f"configuration file of unknown kind: {str(path)!r}; allowed: .yaml, .yml, .toml"
        raise ConfigurationError(message)
    try:
        values = parse(path.read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration file cannot be read: {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        message = f"configuration file holds a {kind}: {str(path)!r}; allowed: a mapping of settings"
        raise ConfigurationError(message)
    return values


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(
            error, "problem_mark", None
        )  # the error's own text quotes the file, which may hold a secret
        place = f" at line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"configuration file is not YAML{place}: {str(path)!r}") from None
    return {} if values is None else values


def _parse_toml(text: str, path: Path) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"configuration file is not TOML: {str(path)!r}: {error}") from error


def read_environment(env: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Collect the variables that set something: variable name → value, empty ones left out.

    Reserved names (`QWEN_RERANK_CONFIG`, `QWEN_RERANK_TEST_*`) and the links that Kubernetes injects for a
    service called `qwen-rerank` are left out too.

    Raises:
        ConfigurationError: A variable with our prefix names no setting.
    """
    names = set(known)
    links = _kubernetes_links(env)
    found = {
        variable: value
        for variable, value in env.items()
        if variable.startswith(ENV_PREFIX)
        and value != ""
        and not _is_reserved(variable)
        and variable not in links
    }
    for variable in found:
        section, key = split_variable(variable)
        if section is None and key not in names:
            raise unknown_setting(variable, [f"{ENV_PREFIX}{name.upper()}" for name in names], "environment")
    return found


def split_variable(variable: str) -> tuple[str | None, str]:
    """Give a variable's section, or None for the top level, and its key in lower case."""
    name = variable.removeprefix(ENV_PREFIX).lower()
    for section in ENV_SECTIONS:
        if name.startswith(f"{section}_"):
            return section, name.removeprefix(f"{section}_")
    return None, name


def _is_reserved(variable: str) -> bool:
    return variable == CONFIG_VARIABLE or variable.startswith(f"{ENV_PREFIX}TEST_")


def _kubernetes_links(env: Mapping[str, str]) -> set[str]:
    """Name the variables that Kubernetes itself set, for a service called `qwen-rerank` in the pod's namespace.

    Source: kubernetes.io, "Discovering services", environment variables. Its `..._SERVICE_HOST` and
    `..._SERVICE_PORT` would otherwise be taken for the address to listen on; they are told from the user's by
    being the link's own host and port.
    """
    link = env.get(f"{ENV_PREFIX}PORT", "")
    if not _KUBERNETES_LINK.match(link):
        return set()
    address = urlsplit(link)
    theirs = {
        f"{ENV_PREFIX}SERVICE_HOST": address.hostname,
        f"{ENV_PREFIX}SERVICE_PORT": str(address.port),
    }
    links = {name for name, value in theirs.items() if env.get(name) == value}
    for variable in env:
        name = variable.removeprefix(ENV_PREFIX)
        if name != variable and (_KUBERNETES_PORT.fullmatch(name) or name.startswith("SERVICE_PORT_")):
            links.add(variable)
    return links
