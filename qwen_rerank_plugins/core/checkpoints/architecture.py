"""Read the decoder's shape from the contents of a config.json, and reject what the decoder does not compute.

This module knows no files. What a GGUF file says about its model arrives here in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_rerank_plugins.core.model.attention import AttentionShape
from qwen_rerank_plugins.core.model.decoder import Architecture
from qwen_rerank_plugins.errors import CheckpointFormatError

__all__ = ["read_architecture", "read_has_classifier"]

_MODEL_TYPES = {"qwen2": "qwen2", "qwen3": "qwen3", "zeroentropy": "qwen3"}


def read_architecture(model: str, config: Mapping[str, Any]) -> Architecture:
    """Return the decoder's shape.

    Args:
        model: Name of the checkpoint, for messages.
        config: The contents of config.json.

    Raises:
        CheckpointFormatError: The model type is unknown, a field is missing or impossible, or the decoder does
            not compute what the configuration asks for.
    """
    model_type = str(config.get("model_type"))
    if model_type not in _MODEL_TYPES:
        raise CheckpointFormatError(
            f"{model!r} has the model type {model_type!r}, which is not supported; use one of "
            f"{', '.join(sorted(_MODEL_TYPES))}"
        )
    _reject_unsupported(model, config)
    try:
        architecture = _architecture(config, _MODEL_TYPES[model_type])
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointFormatError(
            f"the configuration of {model!r} has a missing or invalid field: {error}"
        ) from error
    if not _is_valid_shape(architecture):
        raise CheckpointFormatError(
            f"the configuration of {model!r} describes an impossible shape: {architecture}"
        )
    return architecture


def read_has_classifier(model: str, config: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint is a sequence-classification conversion, whose head is one row of its own.

    Raises:
        CheckpointFormatError: It has several labels, or is neither that nor a causal model.
    """
    names = config.get("architectures") or [""]
    if str(names[0]).endswith("ForSequenceClassification"):
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
        if labels != 1:
            raise CheckpointFormatError(
                f"{model!r} classifies into {labels} labels; use a checkpoint with one"
            )
        return True
    if not str(names[0]).endswith("ForCausalLM"):
        raise CheckpointFormatError(
            f"{model!r} has the unsupported architecture {names[0]!r}; use one that ends in ForCausalLM or "
            f"ForSequenceClassification"
        )
    return False


def _architecture(config: Mapping[str, Any], model_type: str) -> Architecture:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    # transformers' default where config.json names no size
    default_head_dim = 128 if model_type == "qwen3" else hidden // heads
    return Architecture(
        hidden_size=hidden,
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        attention=AttentionShape(
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or default_head_dim),
        ),
        vocab_size=int(config["vocab_size"]),
        max_positions=int(config.get("max_position_embeddings") or 32768),
        rms_eps=float(config.get("rms_norm_eps") or 1e-6),
        rope_theta=float(_rope(config).get("rope_theta") or config.get("rope_theta") or 10000.0),
        qk_norm=model_type == "qwen3",
        qkv_bias=model_type == "qwen2",
    )


def _is_valid_shape(shape: Architecture) -> bool:
    heads = shape.attention
    sizes = (
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_layers,
        shape.vocab_size,
        shape.max_positions,
    )
    if min(*sizes, heads.num_heads, heads.num_kv_heads, heads.head_dim) < 1:
        return False
    return heads.num_heads % heads.num_kv_heads == 0 and heads.head_dim % 2 == 0


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of the rotary embedding, which newer files keep in a separate object."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise CheckpointFormatError(
            f"the configuration describes the rotary embedding as {parameters!r}; it must be an object"
        )
    return parameters


def _reject_unsupported(model: str, config: Mapping[str, Any]) -> None:
    """Reject what this decoder does not compute."""
    rope = str(_rope(config).get("rope_type") or _rope(config).get("type") or "default")
    layer_types = set(config.get("layer_types") or ["full_attention"])
    problems = {
        f"the rotary embedding {rope!r}": rope != "default",
        f"the activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "sliding-window attention": bool(config.get("use_sliding_window"))
        or layer_types != {"full_attention"},
        "a bias in every attention projection": bool(config.get("attention_bias")),
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise CheckpointFormatError(f"{model!r} has {' and '.join(found)}, which is not supported")
