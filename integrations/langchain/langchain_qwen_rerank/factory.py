"""`init_reranker`: a compressor from one string, as LangChain's `init_chat_model` does for chat models.

The only module that knows providers; what their settings mean is the base package's matter.
"""

from __future__ import annotations

from typing import Any

from langchain_qwen_rerank.compressor import QwenRerank
from qwen_rerank_plugins import ConfigurationError
from qwen_rerank_plugins.config.names import suggestion

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
"""Provider → its settings."""


def init_reranker(model: str = "", *, provider: str | None = None, **settings: Any) -> QwenRerank:
    """Create a compressor from `"provider:model"`.

        >>> from langchain_qwen_rerank import init_reranker
        >>> init_reranker("qwen3:demo", top_n=5)
        QwenRerank(model='demo', top_n=5)

    | provider | scores come from |
    |---|---|
    | `qwen3`, or none | the model in this process |
    | `remote` | this project's service, for example `"remote:http://host:8501"` |
    | `vllm`, `tei`, `cohere`, `jina`, `voyage` | another service that speaks this dialect, at `base_url` |
    | `lexical` | word overlap, for tests |

    Args:
        model: The provider and the model's name, joined by a colon; either can be omitted. After a remote provider, a
            URL in place of the name is the `base_url`.
        provider: The provider; `model` is then the model's name alone and may contain colons.
        settings: The keywords of `QwenRerank`.

    Raises:
        ConfigurationError: The provider is unknown, or a setting is unknown or wrong.
    """
    name, rest = _split(model) if provider is None else (provider.lower(), model)
    if name not in PROVIDERS:
        raise _unknown_provider(name)
    defaults = PROVIDERS[name]
    is_url = defaults["backend"] == "remote" and rest.startswith(("http://", "https://"))
    named: dict[str, Any] = {**defaults, **({"base_url" if is_url else "model": rest} if rest else {})}
    duplicates = sorted(settings.keys() & named.keys())
    if duplicates:
        raise ConfigurationError(f"{duplicates[0]!r} was given by {model!r} and as a keyword. Pass it once.")
    return QwenRerank(**named, **settings)


def _split(text: str) -> tuple[str, str]:
    """Split at the first colon; text without a colon is a provider's name if there is such a provider, else a model."""
    before, colon, after = text.partition(":")
    if colon:
        return before.lower(), after
    return (text.lower(), "") if text.lower() in PROVIDERS else ("qwen3", text)


def _unknown_provider(name: str) -> ConfigurationError:
    return ConfigurationError(f"unknown provider {name!r}; {suggestion(name, PROVIDERS)}")
