"""Middleware: request context and log line, host names, API keys, tracing."""
