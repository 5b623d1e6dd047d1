"""Suggestions for unknown settings: other projects' names first, then similar spellings, and no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import ConfigurationError, RerankConfig, load_config
from qwen_rerank_plugins.config.names import FOREIGN_NAMES, REMARKS, nearest_name, suggestion

KNOWN = sorted(RerankConfig.model_fields)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("score_threshold", "min_score"),
        ("threshold", "min_score"),
        ("use_fp16", "dtype"),
        ("top_k", "top_n"),
        ("topk", "top_n"),
        ("batch_size", "max_batch_tokens"),
        ("Batch-Size", "max_batch_tokens"),
        ("model_name", "model"),
        ("model_name_or_path", "model"),
        ("url", "base_url"),
        ("endpoint", "base_url"),
        ("api_base", "base_url"),
        ("max_tokens", "max_length"),
        ("modle", "model"),
        ("TOP_N", "top_n"),
        ("quantisation", "quantization"),
        ("verify", "ca_file"),
        ("normalize", None),
        ("trust_remote_code", None),
        ("cache_dir", None),
        ("stream", None),
        ("foo", None),
        ("", None),
    ],
)
def test_the_setting_that_an_unknown_name_means_is_found_or_none(name: str, meant: str | None) -> None:
    assert nearest_name(name, KNOWN) == meant


@given(st.data())
def test_every_single_typing_error_is_recognized(data: st.DataObject) -> None:
    """One character dropped, doubled, or swapped with its neighbour."""
    name = data.draw(st.sampled_from(KNOWN))
    at = data.draw(st.integers(0, len(name) - 2))
    typed = data.draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + name[at] + name[at:],
                name[:at] + name[at + 1] + name[at] + name[at + 2 :],
            ]
        )
    )
    assert nearest_name(typed, KNOWN) == name


def test_a_foreign_name_is_suggested_only_where_its_setting_exists() -> None:
    assert nearest_name("url", ["port", "host"]) is None
    assert nearest_name("verify", ["port", "host"]) is None
    assert nearest_name("anything", []) is None


def test_the_tables_name_settings_that_exist_and_hold_no_setting_themselves() -> None:
    assert set(FOREIGN_NAMES.values()) <= set(KNOWN)
    assert (set(FOREIGN_NAMES) | set(REMARKS)).isdisjoint(KNOWN)


def test_a_name_without_a_near_one_is_answered_by_a_remark_or_by_all_names() -> None:
    assert suggestion("trust_remote_code", KNOWN) == REMARKS["trust_remote_code"]
    assert suggestion("foo", ["port", "host"]) == "use one of: host, port"
    assert suggestion("prot", ["port", "host"]) == "did you mean 'port'?"


def test_variables_are_suggested_as_variables() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'QWEN_RERANK_MIN_SCORE'\?"):
        load_config(env={"QWEN_RERANK_SCORE_THRESHOLD": "0.5"})
    with pytest.raises(ConfigurationError, match="code of a checkpoint is never run"):
        load_config(env={"QWEN_RERANK_TRUST_REMOTE_CODE": "1"})


@pytest.mark.parametrize("name", ["trust_remote_code", "foo"])
def test_an_unrelated_setting_is_not_suggested(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RerankConfig(**{name: 1})  # type: ignore[arg-type]
    assert "did you mean" not in str(caught.value)
