"""Validators of single settings, and the conversion of pydantic's errors. Knows no defaults.

A validator's `ValueError` completes the sentence "`setting` must be …".
"""

from __future__ import annotations

import math
import operator
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from qwen_rerank_plugins.config.sources import unknown_setting
from qwen_rerank_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr, ValidationError
    from pydantic_core import ErrorDetails

MASK = "**********"
HIDDEN = {"api_key", "base_url"}
"""Settings whose values are not shown in errors: they may hold a secret."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_SECRET_NAME = re.compile(r"key|password|passwd|secret|token|credential|authorization", re.IGNORECASE)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def not_blank(text: str) -> str:
    """Refuse a blank text."""
    if not text.strip():
        raise ValueError("a non-blank string")
    return text


def path_to_text(value: object) -> object:
    """Convert a path to a string; return any other value for the type check that follows."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def plain_number(value: object) -> object:
    """Convert another library's number, such as NumPy's, to an `int` or `float`; return any other value as it is."""
    if value is None or type(value) in (bool, int, float):
        return value
    try:
        if hasattr(value, "__index__"):
            return operator.index(value)
        return float(value) if isinstance(value, Real | Decimal) else value
    except (TypeError, ValueError, OverflowError):  # an array, a signalling NaN, a fraction beyond all floats
        return value


def device_list(value: object) -> object:
    """Normalize one device or several, as a list or comma separated, to one string without spaces."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    devices = [part.strip() for part in parts]
    if not devices or not all(_DEVICE.fullmatch(device) for device in devices):
        raise ValueError("'auto', 'cpu', 'cuda', 'cuda:N', 'mps', or several of the form 'cuda:N'")
    several = len(devices) > 1
    if several and (len(set(devices)) < len(devices) or not all(d.startswith("cuda:") for d in devices)):
        raise ValueError("one device, or different ones of the form 'cuda:N'")
    return ",".join(devices)


def adapter_list(value: object) -> tuple[str, ...]:
    """Normalize one adapter or several, as a list or comma separated, to a tuple of "place" and "place=weight"."""
    parts = value.split(",") if isinstance(value, str) else value
    texts = [path_to_text(part) for part in parts] if isinstance(parts, list | tuple) else [None]
    adapters = tuple(text.strip() for text in texts if isinstance(text, str))
    places = [adapter_weight(adapter)[0] for adapter in adapters]
    if len(adapters) < len(texts) or not all(places) or len(set(places)) < len(places):
        raise ValueError("different folders or hub ids, each with a weight as in 'folder=0.5' if it is not 1")
    return adapters


def adapter_weight(adapter: str) -> tuple[str, float]:
    """Split "place=weight", with a finite weight, into its parts; the weight of a mere place is 1."""
    place, _, number = adapter.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        return adapter, 1.0
    if not math.isfinite(weight):
        return adapter, 1.0
    return place.strip(), weight


def service_url(url: str) -> str:
    """Refuse an address that is not http or https, or that has credentials, also in its query, or a fragment."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise ValueError("an address such as 'http://host:8501'")
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if "@" in parts.netloc or parts.fragment or any(_SECRET_NAME.search(name) for name in names):
        raise ValueError("an address without credentials (use `api_key`) or fragment")
    return url


def secret_key(key: SecretStr) -> SecretStr:
    """Refuse a blank key, and the mask that replaces a key in a printed configuration."""
    text = key.get_secret_value()
    if not text.strip() or set(text) == {"*"}:
        raise ValueError("a key, neither blank nor a mask of asterisks")
    return key


def read_secret(path: Path) -> str:
    """Read a file that holds nothing but a secret.

    Raises:
        ConfigurationError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"API key file cannot be read: {str(path)!r}: {reason}") from None


def mask_secrets(value: Any, name: str = "") -> Any:
    """Copy nested plain data, with every value masked whose name suggests a secret."""
    if isinstance(value, Mapping):
        return {key: mask_secrets(item, str(key)) for key, item in value.items()}
    if value is not None and _SECRET_NAME.search(name) and _holds_secret(name, value):
        return MASK
    if isinstance(value, list | tuple):
        return [mask_secrets(item) for item in value]
    return value


def _holds_secret(name: str, value: object) -> bool:
    """Whether a value is a secret, not a number such as `max_batch_tokens` nor the place of a secret."""
    return not isinstance(value, int | float) and not name.endswith(("_env", "_file"))


def configuration_error(
    error: ValidationError,
    known: Iterable[str],
    sources: Mapping[str, str] | None = None,
    *,
    at: tuple[str, str] | None = None,
) -> ConfigurationError:
    """Format pydantic's errors as one line, each with the setting, what it must be, its value and its source.

    Args:
        error: pydantic's error.
        known: The settings that exist, to suggest one for an unknown setting.
        sources: Setting → source of its value, where known; None if all of them are arguments.
        at: The setting that was validated and the variable that held it, if it was validated alone.
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
        return str(own) if own else f"invalid configuration: {detail['msg']}"
    value = " (value hidden)" if setting in HIDDEN else f", got {_SHORT.repr(detail['input'])}"
    rule = f"be {own}" if own else _rule(detail["msg"])
    origin = f"environment {at[1]}" if at else (sources or {}).get(setting)
    return f"`{setting}` must {rule}{value}" + (f" ({origin})" if origin else "")


def _rule(message: str) -> str:
    """Return what a value must do: "be at least 1" for "Input should be greater than or equal to 1"."""
    rule = re.sub(r"^\w+ should ", "", message)
    rule = re.sub(r", (unable|got) .*", "", rule)  # the value is shown anyway
    return rule.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
