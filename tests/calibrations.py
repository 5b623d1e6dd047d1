"""Calibration files that several test modules use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SLOPE, OFFSET = 0.5, -1.0


def fit(instruction: str | None = None, slope: float = SLOPE, offset: float = OFFSET) -> dict[str, Any]:
    counts = {"num_pairs": 40, "num_relevant": 20, "num_queries": 10}
    return {"instruction": instruction, "slope": slope, "offset": offset, **counts}


def content(*fits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The contents of a calibration of the lexical scorer, by default with a fit for its default instruction."""
    return {
        "format": "qwen-rerank-calibration",
        "version": 1,
        "model": "lexical",
        "fingerprint": "lexical",
        "default_instruction": None,
        "relevant_grade": 1,
        "fits": list(fits or [fit()]),
        **changes,
    }


def write_calibration(folder: Path, *fits: dict[str, Any], **changes: Any) -> str:
    """Write a file, and return its path."""
    path = folder / "calibration.json"
    path.write_text(json.dumps(content(*fits, **changes)), encoding="utf-8")
    return str(path)
