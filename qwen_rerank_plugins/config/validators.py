"""Checks of single settings, and pydantic's findings told as our own error. Knows no setting's default."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qwen_rerank_plugins.config.sources import unknown_setting
from qwen_rerank_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr, ValidationError
    from pydantic_core import ErrorDetails

MASK = "**********"

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_SECRET_NAME = re.compile(r"key|password|passwd|secret|token|credential|authorization", re.IGNORECASE)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def not_blank(text: str) -> str:
    """Refuse an empty or white text."""
    if not text.strip():
        raise ValueError("a text that is not blank")
    return text


def path_to_text(value: object) -> object:
    """Turn a path into its text; anything else passes, for the type check that follows."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def device_list(value: object) -> object:
    """Bring one device or several, a list or comma separated, into one text without spaces."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    devices = [part.strip() for part in parts]
    if not devices or not all(_DEVICE.fullmatch(device) for device in devices):
        raise ValueError("'auto', 'cpu', 'cuda', 'cuda:N', or several of the form 'cuda:N'")
    several = len(devices) > 1
    if several and (len(set(devices)) < len(devices) or not all(d.startswith("cuda:") for d in devices)):
        raise ValueError("several devices must be different ones of the form 'cuda:N'")
    return ",".join(devices)


def service_url(url: str) -> str:
    """Refuse an address that is not http(s), or that carries credentials, a query or a fragment."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise ValueError("an address such as 'http://host:8501'")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address without credentials, query or fragment; a key belongs in api_key")
    return url


def secret_key(key: SecretStr) -> SecretStr:
    """Refuse an empty key, and the mask that stands for a key where a configuration was printed."""
    text = key.get_secret_value()
    if not text.strip() or set(text) == {"*"}:
        raise ValueError("a key, neither blank nor the mask of one")
    return key


def read_secret(path: Path) -> str:
    """Read a file that holds nothing but a secret.

    Raises:
        ConfigurationError: It cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"API key file cannot be read: {str(path)!r}: {reason}") from None


def mask_secrets(value: Any, name: str = "") -> Any:
    """Copy nested plain data, with a mask in place of everything whose name sounds like a secret."""
    if isinstance(value, Mapping):
        return {key: mask_secrets(item, str(key)) for key, item in value.items()}
    if value is not None and _SECRET_NAME.search(name) and _holds_secret(name, value):
        return MASK
    if isinstance(value, list | tuple):
        return [mask_secrets(item) for item in value]
    return value


def _holds_secret(name: str, value: object) -> bool:
    """Tell a secret from a number such as `max_batch_tokens`, or from the place of one."""
    return not isinstance(value, int | float) and not name.endswith(("_env", "_file"))


def configuration_error(
    error: ValidationError,
    known: Iterable[str],
    sources: Mapping[str, str] | None = None,
    *,
    at: tuple[str, str] | None = None,
) -> ConfigurationError:
    """Tell pydantic's findings in one line: what was wrong, the value, what is allowed, and whence it came.

    Args:
        error: What pydantic found.
        known: The settings that exist, for the nearest one to an unknown.
        sources: Setting → where its value came from, as far as that is known; None where all were arguments.
        at: The one setting that was checked and the variable that held it, when it was checked alone.
    """
    names = list(known)
    texts = [_describe(detail, names, sources, at) for detail in error.errors(include_url=False)]
    return ConfigurationError("; ".join(dict.fromkeys(texts)))


def _describe(
    detail: ErrorDetails,
    known: list[str],
    sources: Mapping[str, str] | None,
    at: tuple[str, str] | None,
) -> str:
    setting = at[0] if at else str(detail["loc"][0]) if detail["loc"] else ""
    own = detail.get("ctx", {}).get("error")
    if detail["type"] == "extra_forbidden":
        return str(unknown_setting(setting, known, "argument" if sources is None else sources.get(setting)))
    if not setting:
        return str(own) if own else f"a configuration is not valid: {detail['msg']}"
    shown = "(hidden)" if setting in {"api_key", "base_url"} else _SHORT.repr(detail["input"])
    allowed = str(own) if own else _allowed(detail["msg"])
    origin = f"environment {at[1]}" if at else (sources or {}).get(setting)
    return f"{setting} is not valid: {shown}; allowed: {allowed}" + (f" ({origin})" if origin else "")


def _allowed(message: str) -> str:
    """Turn "Input should be a valid integer" into "a valid integer"."""
    text = re.sub(r"^Input should (be )?", "", message)
    return text[:1].lower() + text[1:]
