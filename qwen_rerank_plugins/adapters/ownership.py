"""The reranker behind a wrapper: where it comes from, who closes it, and how the wrapper is copied and pickled.

Knows no framework, no documents and no metadata.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Self

from pydantic import SecretStr

from qwen_rerank_plugins.closing import CloseMixin
from qwen_rerank_plugins.config import SECTIONS, RerankConfig, load_config
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["API_KEY_VARIABLE", "OwnsReranker", "explicit_settings", "resolve_reranker"]

API_KEY_VARIABLE = "QWEN_RERANK_API_KEY"
"""The environment variable that replaces a masked key when a wrapper is loaded."""


def resolve_reranker(
    config: RerankConfig | None, reranker: Reranker | None, settings: Mapping[str, Any]
) -> Reranker:
    """Return the reranker that was passed in, or one over the engine that the process shares. Nothing is loaded yet.

    Args:
        config: Settings to start from; None for the defaults.
        reranker: A ready reranker in place of settings; None for one that follows the settings.
        settings: Fields of `RerankConfig`, which override those of `config`. If `api_key` is the mask that
            `explicit_settings` writes, the key is read from the environment.

    Raises:
        ConfigurationError: A setting is unknown or wrong, an argument has the wrong type, a masked key is not in the
            environment, or settings were passed together with a ready reranker, which would ignore them.
    """
    for name, value, kind in (("config", config, RerankConfig), ("reranker", reranker, Reranker)):
        if value is not None and not isinstance(value, kind):
            hint = " To choose a model, pass its name as model=..." if isinstance(value, str) else ""
            raise ConfigurationError(f"{name} has the wrong type: {value!r}. Pass a {kind.__name__}.{hint}")
    if reranker is None:
        base = RerankConfig() if config is None else config
        return Reranker.shared(base.replace(**_unmask_key(settings)) if settings else base)
    if ignored := [*(["config"] if config is not None else []), *settings]:
        names = ", ".join(map(repr, ignored))
        raise ConfigurationError(
            f"a ready reranker was passed together with settings: {names}. Set them on the reranker instead."
        )
    return reranker


def explicit_settings(config: RerankConfig) -> dict[str, Any]:
    """Return the settings that were set explicitly, as plain JSON types, with a mask in place of a key.

    A wrapper created from them is equal. The sections of the service, of batch jobs and of OpenSearch are omitted: no
    wrapper reads them, and they may hold secrets.
    """
    return config.model_dump(mode="json", exclude_unset=True, exclude=set(SECTIONS))


class OwnsReranker(CloseMixin):
    """Base class of wrappers, listed before the framework's own class.

    A wrapper owns a reranker that it creates from settings, or borrows one that is passed in: the caller closes a
    borrowed reranker, and a wrapper with one cannot be pickled. Every wrapper is a context manager, blocking and
    asynchronous.

    A derived class with keywords that are not fields of `RerankConfig` overrides `own_parameters` and `own_settings`.
    """

    _config: RerankConfig  # the reranker's, unless a derived class allows the assignment of settings
    _reranker: Reranker
    _is_borrowed: bool

    def __init__(
        self, *, config: RerankConfig | None = None, reranker: Reranker | None = None, **settings: Any
    ) -> None:
        """Create a wrapper. Nothing is loaded yet, and the environment is not read.

        Args:
            config: Settings to start from; None for the defaults.
            reranker: A ready reranker in place of settings; the caller closes it.
            settings: Fields of `RerankConfig`, which override those of `config`.

        Raises:
            ConfigurationError: A setting is unknown or wrong.
        """
        self._reranker = resolve_reranker(config, reranker, settings)
        self._is_borrowed = reranker is not None
        self._config = self._reranker.config

    @property
    def reranker(self) -> Reranker:
        """The reranker behind the wrapper, owned or borrowed."""
        return self._reranker

    @property
    def config(self) -> RerankConfig:
        """The settings."""
        return self._config

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None, **overrides: Any) -> Self:
        """Create a wrapper from a YAML or TOML file; the environment overrides the file, `overrides` override both.

        Args:
            path: The file; None for the one that `QWEN_RERANK_CONFIG` names, if any.
            overrides: Keywords of the class.

        Raises:
            ConfigurationError: A source has an unknown or a wrong setting, or the file cannot be read.
        """
        own, settings = cls.split_parameters(overrides)
        return cls(config=load_config(path, overrides=settings), **own)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Create a wrapper from `QWEN_RERANK_*`, and from the file that `QWEN_RERANK_CONFIG` names, if any.

        Raises:
            ConfigurationError: As `from_config`.
        """
        return cls.from_config(None, **overrides)

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some settings changed, over the same engine if the changes allow it.

        Raises:
            ConfigurationError: A setting is unknown or wrong, or belongs to a borrowed reranker.
        """
        own, settings = self.split_parameters(changes)
        own = self.own_settings() | own
        create: Callable[..., Self] = type(self)
        if not self._is_borrowed:
            return create(config=self.config.replace(**settings), **own)
        copied = create(reranker=self._reranker, **settings, **own)
        copied._config = self._config  # noqa: SLF001 (of this class)
        return copied

    def close(self) -> None:
        """Release the engine unless others use it; later calls raise `ClosedError`. A borrowed reranker stays open."""
        if not self._is_borrowed:
            self._reranker.close()

    # For derived classes.

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The names of the class's keywords that are not fields of `RerankConfig`."""
        return ()

    def own_settings(self) -> dict[str, Any]:
        """The keywords among `own_parameters` that were set, with their values; a copy is created from them."""
        return {}

    def to_parameters(self) -> dict[str, Any]:
        """Return the keywords that create an equal wrapper, with a mask in place of a key; pickles consist of them."""
        return explicit_settings(self.config) | self.own_settings()

    @classmethod
    def split_parameters(cls, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split keywords into those of the class itself and those of `RerankConfig`, in this order."""
        names = cls.own_parameters()
        own = {name: value for name, value in keywords.items() if name in names}
        return own, {name: value for name, value in keywords.items() if name not in names}

    def refuse_if_borrowed(self, operation: str) -> None:
        """Raise a `TypeError` that names the operation, for example "pickled", if the reranker is borrowed."""
        if self._is_borrowed:
            raise TypeError(
                f"{type(self).__name__} uses a reranker that was passed in and cannot be {operation}."
                " Create it from settings instead."
            )

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.replace()

    def __reduce__(self) -> tuple[Any, ...]:
        self.refuse_if_borrowed("pickled")
        return partial(type(self), **self.to_parameters()), ()

    def __repr__(self) -> str:
        own, _ = self.split_parameters(self.to_parameters())
        shown = [*self.config.__repr_args__(), *own.items()]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def __str__(self) -> str:
        return repr(self)


def _unmask_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a masked key by the one in the environment."""
    given = settings.get("api_key")
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    if not isinstance(text, str) or not text or set(text) != {"*"}:
        return dict(settings)
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigurationError(
            f"api_key is a mask: {text!r}. Pass the key, or set the environment variable {API_KEY_VARIABLE}."
        )
    return {**settings, "api_key": SecretStr(key)}
