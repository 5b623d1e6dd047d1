"""What every request passes before its handler: context and log line, host names, API keys."""
