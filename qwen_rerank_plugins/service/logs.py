"""How log lines look: one JSON object a line, or text. No line holds a user's text or a key.

Nothing is configured on import; the server hands `log_config` to whoever configures logging.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

__all__ = ["ACCESS_LOGGER", "JsonFormatter", "TextFormatter", "log_access", "log_config", "log_fault"]

ACCESS_LOGGER = "qwen_rerank_plugins.service.access"

_access = logging.getLogger(ACCESS_LOGGER)
_service = logging.getLogger("qwen_rerank_plugins.service")


def log_access(fields: dict[str, Any], *, quiet: bool = False) -> None:
    """Write a request's one line.

    Args:
        fields: Plain JSON types.
        quiet: Only for those who want to see everything: probes come every few seconds.
    """
    _access.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})


def log_fault(error: BaseException, request_id: str) -> None:
    """Write where an unexpected error came from, without its message, which may quote a user's text."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    fields = {"request_id": request_id, "error": type(error).__name__, "at": places[-12:]}
    _service.error("a request failed unexpectedly", extra={"fields": fields})
    _service.debug("the error's own words: %s", error)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, msg, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, message, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        fields = _fields(record)
        values = [f"{name}={json.dumps(value, default=str)}" for name, value in fields.items()]
        if record.exc_info and record.exc_info[0] is not None:
            values.append(f"error={record.exc_info[0].__name__}")
        message = record.getMessage().translate({10: " ", 13: " "})
        return " ".join([_timestamp(record), record.levelname.ljust(7), message, *values])


def log_config(log_format: str) -> dict[str, Any]:
    """Give what `logging.config.dictConfig` takes: the package's lines from INFO, others' from WARNING, to stderr."""
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
