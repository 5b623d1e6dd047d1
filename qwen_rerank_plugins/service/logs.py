"""Log lines of the service, as JSON or as text. No line contains a user's text or a key.

Nothing is configured on import; the server passes `log_config` to whatever configures logging.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter as BaseJsonFormatter

__all__ = ["ACCESS_LOGGER", "JsonFormatter", "TextFormatter", "log_access", "log_config", "log_fault"]

ACCESS_LOGGER = "qwen_rerank_plugins.service.access"
MAX_FRAMES = 12

_access = logging.getLogger(ACCESS_LOGGER)
_service = logging.getLogger("qwen_rerank_plugins.service")

_KEYS = {"asctime": "ts", "levelname": "level", "name": "logger", "message": "msg", "exc_info": "error"}
_RESERVED = (
    *RESERVED_ATTRS,
    "color_message",
    "taskName",
)  # the first is uvicorn's, which repeats the message
_LINE_ENDS = {ord("\n"): " ", ord("\r"): " "}


def log_access(fields: dict[str, Any], *, quiet: bool = False) -> None:
    """Write the log line of a request.

    Args:
        fields: Plain JSON types.
        quiet: Log at DEBUG, for probes that arrive every few seconds.
    """
    _access.log(logging.DEBUG if quiet else logging.INFO, "request", extra=fields)


def log_fault(error: BaseException, request_id: str) -> None:
    """Log where an unexpected error was raised, without its message, which may quote a user's text."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    fields = {"request_id": request_id, "error": type(error).__name__, "at": frames[-MAX_FRAMES:]}
    _service.error("unexpected error", extra=fields)
    _service.debug("message of the unexpected error: %s", error)


class _UtcFormatter(logging.Formatter):
    """UTC timestamps, and of an exception only its type."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the base class's name)
        """Return the exception's type."""
        return ei[0].__name__ if ei[0] is not None else ""


class JsonFormatter(_UtcFormatter, BaseJsonFormatter):
    """One JSON object per line, in ASCII: ts, level, logger, msg, and the record's own fields."""

    def __init__(self) -> None:
        super().__init__(
            ["asctime", "levelname", "name", "message"],
            rename_fields=_KEYS,
            reserved_attrs=_RESERVED,
            json_ensure_ascii=True,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Write levels in lower case."""
        return {**log_data, "level": log_data["level"].lower()}


class TextFormatter(_UtcFormatter):
    """One line of text: time, level, message, then name=value for the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = merge_record_extra(record, {}, _RESERVED)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        values = [f"{name}={json.dumps(value, default=str)}" for name, value in fields.items()]
        message = record.getMessage().translate(_LINE_ENDS)
        return " ".join([self.formatTime(record), record.levelname.ljust(7), message, *values])


def log_config(log_format: str) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig`.

    The package logs to stderr from INFO, other libraries from WARNING.
    """
    formatter = JsonFormatter if log_format == "json" else TextFormatter
    lines = {"handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": f"{formatter.__module__}.{formatter.__qualname__}"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "lines"}
        },
        "loggers": {
            "qwen_rerank_plugins": {**lines, "level": "INFO"},
            "uvicorn": {**lines, "level": "WARNING"},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
