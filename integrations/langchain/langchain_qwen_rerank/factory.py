"""`init_reranker`: one string that names a reranker, in the manner of LangChain's `init_chat_model`.

The only place that knows how providers are called; what their settings mean is the base package's matter.
"""

from __future__ import annotations

import difflib
from typing import Any

from langchain_qwen_rerank.compressor import QwenRerank
from qwen_rerank_plugins import ConfigurationError

__all__ = ["PROVIDERS", "init_reranker"]

PROVIDERS: dict[str, dict[str, str]] = {
    "qwen3": {"backend": "local"},
    "remote": {"backend": "remote"},
    "cohere": {"backend": "remote", "dialect": "cohere"},
    "jina": {"backend": "remote", "dialect": "jina"},
    "vllm": {"backend": "remote", "dialect": "vllm"},
    "tei": {"backend": "remote", "dialect": "tei"},
    "voyage": {"backend": "remote", "dialect": "voyage"},
    "lexical": {"backend": "lexical"},
}
"""Provider → the settings that it stands for."""


def init_reranker(model: str = "", *, provider: str | None = None, **settings: Any) -> QwenRerank:
    """Create a compressor from `"provider:model"`.

        >>> from langchain_qwen_rerank import init_reranker
        >>> init_reranker("qwen3:demo", top_n=5)
        QwenRerank(model='demo', top_n=5)

    | provider | scores come from |
    |---|---|
    | `qwen3`, or none | the model in this process |
    | `remote` | this project's service; `"remote:http://host:8501"` names it as well |
    | `vllm`, `tei`, `cohere`, `jina`, `voyage` | another service in that dialect, by `base_url` |
    | `lexical` | word overlap, for tests |

    Args:
        model: A provider and a model's name, joined by a colon; either may be left out. After a remote provider, an
            address in place of a name is taken as `base_url`.
        provider: The provider; then `model` is the model alone, colons and all.
        settings: What `QwenRerank` takes.

    Raises:
        ConfigurationError: The provider is unknown, or a setting is unknown or wrong.
    """
    name, rest = _parts(model) if provider is None else (provider.lower(), model)
    if name not in PROVIDERS:
        raise _unknown_provider(name)
    defaults = PROVIDERS[name]
    is_address = defaults["backend"] == "remote" and rest.startswith(("http://", "https://"))
    named: dict[str, Any] = {**defaults, **({"base_url" if is_address else "model": rest} if rest else {})}
    twice = sorted(settings.keys() & named.keys())
    if twice:
        raise ConfigurationError(
            f"said twice: {twice[0]!r}, by {model!r} and as a keyword; allowed: one of them"
        )
    return QwenRerank(**named, **settings)


def _parts(text: str) -> tuple[str, str]:
    """Split at the first colon; without one it is a provider if there is one of that name, else a model."""
    before, colon, after = text.partition(":")
    if colon:
        return before.lower(), after
    return (text.lower(), "") if text.lower() in PROVIDERS else ("qwen3", text)


def _unknown_provider(name: str) -> ConfigurationError:
    nearest = max(sorted(PROVIDERS), key=lambda one: difflib.SequenceMatcher(None, name, one).ratio())
    allowed = ", ".join(PROVIDERS)
    return ConfigurationError(
        f"unknown provider {name!r}; the nearest known one is {nearest!r}; allowed: {allowed}"
    )
