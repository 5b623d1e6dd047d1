"""Upload jobs: a file comes in, is ranked in the background by the batch pipeline, and can be fetched for a while."""

from __future__ import annotations
