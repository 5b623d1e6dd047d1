"""Haystack sends usage statistics unless a variable that is set before its import forbids it."""

from __future__ import annotations

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
