"""Runs the command line as `python -m opensearch_qwen_rerank`."""

from __future__ import annotations

from opensearch_qwen_rerank.cli import main

if __name__ == "__main__":
    main()
