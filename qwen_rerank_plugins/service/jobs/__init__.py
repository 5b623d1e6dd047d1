"""Upload jobs: a file is uploaded, ranked in the background by the batch pipeline, and kept for download."""

from __future__ import annotations
