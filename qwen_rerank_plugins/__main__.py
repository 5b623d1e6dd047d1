"""`python -m qwen_rerank_plugins` is `qwen-rerank`."""

from __future__ import annotations

from qwen_rerank_plugins.cli.app import main

if __name__ == "__main__":
    main()
