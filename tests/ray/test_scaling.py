from __future__ import annotations

from pathlib import Path

import pytest

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.ray.scaling import ScalingSettings, read_arguments, with_reserved_threads


def test_arguments_of_the_command_line_are_texts_of_every_kind() -> None:
    """`serve run` passes texts; Serve's own file passes numbers. Both mean the same."""
    texts = {
        "model": "demo",
        "num_replicas": "2",
        "num_gpus": "0.5",
        "prefix_cache_mb": "0",
        "self_check": "false",
        "service.max_wait_s": "3",
    }
    values = {
        "model": "demo",
        "num_replicas": 2,
        "num_gpus": 0.5,
        "prefix_cache_mb": 0,
        "self_check": False,
        "service": {"max_wait_s": 3},
    }
    found, same = read_arguments(texts, env={}), read_arguments(values, env={})
    assert (found.service, found.scaling) == (same.service, same.scaling)
    assert found.config.model_dump(exclude={"service"}) == same.config.model_dump(exclude={"service"})
    assert (found.config.model, found.config.prefix_cache_mb, found.config.self_check) == ("demo", 0, False)
    assert (found.scaling.num_replicas, found.scaling.num_gpus) == (2, 0.5)
    assert found.service.max_wait_s == 3.0


def test_an_argument_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: in-file\ndtype: float32\nmax_length: 512\n", encoding="utf-8")
    env = {"QWEN_RERANK_MODEL": "in-environment", "QWEN_RERANK_MAX_LENGTH": "256"}
    config = read_arguments({"config": str(path), "model": "in-argument"}, env=env).config
    assert (config.model, config.max_length, config.dtype) == ("in-argument", 256, "float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_replica": 2}, "did you mean 'num_replicas'"),
        ({"service.max_wait": 2}, "did you mean 'service.max_wait_s'"),
        ({"num_replicas": 0}, "`num_replicas` must be at least 1, got 0"),
        (
            {"num_replicas": 4, "max_replicas": 2},
            "max_replicas is too small: 2; use at least num_replicas, 4",
        ),
        ({"api_key": "secret"}, "api_key must not be an argument"),
        ({"model": ""}, ""),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, object], message: str) -> None:
    if not message:  # an empty text counts as unset, as in an environment
        assert read_arguments(arguments, env={}).config.model == RerankConfig().model
        return
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        read_arguments(arguments, env={})


def test_a_worker_computes_with_the_processors_that_it_reserved() -> None:
    assert with_reserved_threads(RerankConfig(), 4.0).num_threads == 4
    assert with_reserved_threads(RerankConfig(), 0.5).num_threads == 1
    assert with_reserved_threads(RerankConfig(num_threads=3), 8.0).num_threads == 3


def test_the_table_of_the_documentation_is_the_codes() -> None:
    page = Path(__file__).resolve().parent.parent.parent / "docs" / "scaling.md"
    found = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [
        f"| `{name}` | {'none' if field.default is None else f'`{field.default}`'} | {field.description} |"
        for name, field in ScalingSettings.model_fields.items()
    ]
    assert found == expected
