"""`OwnsReranker` for frameworks whose classes are pydantic models. Knows pydantic, and no framework."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from qwen_rerank_plugins.adapters.documents import check_metadata_fields
from qwen_rerank_plugins.adapters.ownership import OwnsReranker, explicit_settings
from qwen_rerank_plugins.adapters.spans import SpanParameters, configuration_error
from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.reranker import Reranker

__all__ = ["OwnsRerankerModel"]


class OwnsRerankerModel(OwnsReranker, SpanParameters):
    """Base class of wrappers that are pydantic models: the fields of the model are the wrapper's own parameters.

    Attributes:
        metadata_fields: Metadata keys that are scored with the content, see `render_metadata`; None for what the
            framework scores by default.
        spans, compress, context: As in `SpanParameters`.
    """

    metadata_fields: tuple[str, ...] | None = Field(default=None, frozen=True)

    _config: RerankConfig = PrivateAttr()
    _reranker: Reranker = PrivateAttr()
    _is_borrowed: bool = PrivateAttr()

    def __init__(
        self,
        *,
        config: RerankConfig | None = None,
        reranker: Reranker | None = None,
        metadata_fields: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        """Create a wrapper as `OwnsReranker` does; the fields of the model are among the keywords.

        A derived class defines its own `__init__`, from which type checkers read the keywords.

        Raises:
            ConfigurationError: A setting or a field is unknown or wrong.
        """
        own, settings = self.split_parameters(settings)
        if metadata_fields is not None:
            own["metadata_fields"] = check_metadata_fields(metadata_fields)
        try:
            BaseModel.__init__(self, **own)
        except ValidationError as error:
            raise configuration_error(error) from None
        OwnsReranker.__init__(self, config=config, reranker=reranker, **settings)

    @classmethod
    def own_parameters(cls) -> Collection[str]:
        """The names of the model's fields."""
        return cls.model_fields.keys()

    def own_settings(self) -> dict[str, Any]:
        """The model's fields that were set, with their values."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }

    def to_parameters(self) -> dict[str, Any]:
        """Return the keywords that create an equal wrapper, with a mask in place of a key and no excluded field."""
        fields = type(self).model_fields
        own = {name: value for name, value in self.own_settings().items() if not fields[name].exclude}
        if own.get("spans"):
            own["spans"] = asdict(own["spans"])
        return explicit_settings(self.config) | own

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 (pydantic's)
        """Copy as pydantic does, but validate the changes; settings are frozen, so no copy needs to be deep."""
        return self.replace(**(update or {}))
