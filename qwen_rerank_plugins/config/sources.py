"""Read the raw values of settings from a file and from the environment, and merge them.

Knows neither which settings exist nor what they may hold: callers pass the known names and check the values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qwen_rerank_plugins.config.names import ENV_PREFIX, suggestion
from qwen_rerank_plugins.errors import ConfigurationError

__all__ = [
    "API_KEY_SETTINGS",
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "SECTIONS",
    "SettingLayers",
    "read_environment",
    "read_file",
    "split_variable",
    "unknown_setting",
]

CONFIG_VARIABLE = "QWEN_RERANK_CONFIG"
SECTIONS = ("service", "opensearch", "batch")
"""Settings that hold the settings of another part; QWEN_RERANK_SERVICE_PORT is `port` in `service`."""
API_KEY_SETTINGS = ("api_key", "api_key_env", "api_key_file")
"""Settings of which at most one may be set."""

_KUBERNETES_LINK = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_KUBERNETES_PORT = re.compile(r"PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def unknown_setting(name: object, known: Iterable[str], origin: str | None) -> ConfigurationError:
    """Return the error for a setting that does not exist, with its source and the setting that was likely meant."""
    place = "" if origin is None else f" ({origin})"
    return ConfigurationError(f"unknown setting {name!r}{place}; {suggestion(str(name), known)}")


class SettingLayers:
    """Settings and their sources, merged from layers that are added from the weakest to the strongest.

    Args:
        known: The settings that exist.

    Attributes:
        values: Setting → value.
        sources: Setting, or `section.key`, → source of its value.
    """

    def __init__(self, known: Collection[str]) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._known = known

    def add(self, values: Mapping[str, Any], source: str) -> None:
        """Replace settings by those of a stronger source; sections are merged key by key.

        Raises:
            ConfigurationError: A setting does not exist.
        """
        if any(name in values for name in API_KEY_SETTINGS):
            for name in API_KEY_SETTINGS:  # one of them replaces another
                self.values.pop(name, None)
                self.sources.pop(name, None)
        for name, value in values.items():
            if name not in self._known:
                raise unknown_setting(name, self._known, source)
            self.sources[name] = source
            if name in SECTIONS and isinstance(value, Mapping):
                self.sources.update({f"{name}.{key}": source for key in value})
                self.values[name] = {**self.values.get(name, {}), **value}
            else:
                self.values[name] = value


def read_file(path: Path) -> dict[str, Any]:
    """Read a YAML or TOML file, by its suffix, as a mapping; an empty file is an empty mapping.

    Raises:
        ConfigurationError: The file is missing, of another format, malformed, or not a mapping.
    """
    parse = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}.get(path.suffix.lower())
    if parse is None:
        raise ConfigurationError(f"configuration file must end in .yaml, .yml or .toml, got {str(path)!r}")
    try:
        values = parse(path.read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration file cannot be read: {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigurationError(
            f"configuration file must be a mapping of settings, got a {kind}: {str(path)!r}"
        )
    return values


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The error's own text is left out: it quotes the file, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"configuration file is not valid YAML{place}: {str(path)!r}") from None
    return {} if values is None else values


def _parse_toml(text: str, path: Path) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"configuration file is not valid TOML: {str(path)!r}: {error}") from error


def read_environment(env: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Return the variables that hold settings: name → value, empty ones left out.

    Also left out are reserved names (`QWEN_RERANK_CONFIG`, `QWEN_RERANK_TEST_*`) and the variables that Kubernetes
    sets for a service called `qwen-rerank`.

    Raises:
        ConfigurationError: A variable with the prefix `QWEN_RERANK_` names no setting.
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
    """Return a variable's section, None for the top level, and its key in lower case."""
    name = variable.removeprefix(ENV_PREFIX).lower()
    for section in SECTIONS:
        if name.startswith(f"{section}_"):
            return section, name.removeprefix(f"{section}_")
    return None, name


def _is_reserved(variable: str) -> bool:
    return variable == CONFIG_VARIABLE or variable.startswith(f"{ENV_PREFIX}TEST_")


def _kubernetes_links(env: Mapping[str, str]) -> set[str]:
    """Return the names of variables that Kubernetes sets for a service called `qwen-rerank` in the pod's namespace.

    Source: kubernetes.io, "Discovering services", environment variables. Its `..._SERVICE_HOST` and
    `..._SERVICE_PORT` would otherwise set the address to listen on. They differ from a user's own variables in that
    they equal the link's host and port.
    """
    link = env.get(f"{ENV_PREFIX}PORT", "")
    if not _KUBERNETES_LINK.match(link):
        return set()
    address = urlsplit(link)
    injected = {
        f"{ENV_PREFIX}SERVICE_HOST": address.hostname,
        f"{ENV_PREFIX}SERVICE_PORT": str(address.port),
    }
    links = {name for name, value in injected.items() if env.get(name) == value}
    for variable in env:
        name = variable.removeprefix(ENV_PREFIX)
        if name != variable and (_KUBERNETES_PORT.fullmatch(name) or name.startswith("SERVICE_PORT_")):
            links.add(variable)
    return links
