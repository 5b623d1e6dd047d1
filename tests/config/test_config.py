from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins import ConfigurationError, RerankConfig, load_config
from qwen_rerank_plugins.config import load_config_with_sources, resolve_api_key


def test_defaults_are_the_documented_ones() -> None:
    config = RerankConfig()
    assert (config.backend, config.model, config.max_length) == ("local", "Qwen/Qwen3-Reranker-0.6B", 8192)
    assert (config.top_n, config.min_score, config.on_error, config.enabled) == (None, None, "raise", True)


def test_every_setting_has_a_description() -> None:
    missing = [name for name, field in RerankConfig.model_fields.items() if not field.description]
    assert missing == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_n": 0}, "`top_n` must be at least 1, got 0"),
        ({"top_n": True}, "`top_n` must be a valid integer, got True"),
        ({"top_n": "3"}, "`top_n` must be a valid integer, got '3'"),
        ({"top_n": 2.0}, "`top_n` must be a valid integer, got 2.0"),
        ({"min_score": float("nan")}, "`min_score` must be a finite number, got nan"),
        ({"min_score": 1.01}, "`min_score` must be at most 1, got 1.01"),
        ({"min_score": -0.1}, "`min_score` must be at least 0, got -0.1"),
        ({"min_score": True}, "`min_score` must be a valid number, got True"),
        ({"deadline_s": 0}, "`deadline_s` must be greater than 0, got 0"),
        ({"timeout_s": float("inf")}, "`timeout_s` must be a finite number, got inf"),
        ({"enabled": 1}, "`enabled` must be a valid boolean, got 1"),
        ({"retries": -1}, "`retries` must be at least 0, got -1"),
        ({"backend": "gpu"}, "`backend` must be 'local', 'remote' or 'lexical', got 'gpu'"),
        ({"model": " "}, "`model` must be a non-blank string, got ' '"),
        ({"model": None}, "`model` must be a valid string, got None"),
        (
            {"device": "gpu"},
            "`device` must be 'auto', 'cpu', 'cuda', 'cuda:N', 'mps', or several of the form 'cuda:N', got 'gpu'",
        ),
        ({"device": 3}, "`device` must be a valid string, got 3"),
        ({"device": []}, "or several of the form 'cuda:N', got []"),
        (
            {"device": "cuda:0,cuda:0"},
            "`device` must be one device, or different ones of the form 'cuda:N', got",
        ),
        (
            {"device": ["cuda:0", "cpu"]},
            "`device` must be one device, or different ones of the form 'cuda:N', got",
        ),
        ({"adapters": 3}, "`adapters` must be different folders or hub ids, each with a weight as in"),
        ({"adapters": ["a", 1]}, "with a weight as in 'folder=0.5' if it is not 1, got ['a', 1]"),
        ({"adapters": "a,,b"}, "if it is not 1, got 'a,,b'"),
        ({"adapters": "a,a=2"}, "`adapters` must be different folders or hub ids"),
        ({"adapters": "=2"}, "`adapters` must be different folders or hub ids"),
        (
            {"base_url": "localhost:8501"},
            "`base_url` must be an address such as 'http://host:8501' (value hidden)",
        ),
        ({"base_url": "http://host:port"}, "`base_url` must be an address such as"),
        ({"backend": "remote"}, "`base_url` must be set for the remote backend, got None"),
        (
            {"base_url": "http://host:8501/?key=1"},
            "without credentials (use `api_key`) or fragment (value hidden)",
        ),
        (
            {"base_url": "http://host:8501/?API-Key=1&a=2"},
            "without credentials (use `api_key`) or fragment (value hidden)",
        ),
        (
            {"base_url": "http://host:8501/#part"},
            "without credentials (use `api_key`) or fragment (value hidden)",
        ),
        (
            {"base_url": "http://host:8501/?sig=1&access_token="},
            "without credentials (use `api_key`) or fragment (value hidden)",
        ),
        (
            {"ca_file": "ca.pem", "base_url": "http://host:8501"},
            "`ca_file` is 'ca.pem' while `base_url` is not https; use an https address",
        ),
        ({"ca_file": " "}, "`ca_file` must be a non-blank string, got ' '"),
        ({"dialect": "openai"}, "`dialect` must be 'qwen', 'cohere'"),
        ({"template": "none"}, "`template` must be 'server' or 'client', got 'none'"),
        ({"max_batch_documents": 0}, "`max_batch_documents` must be at least 1, got 0"),
        ({"max_concurrency": 0}, "`max_concurrency` must be at least 1, got 0"),
        ({"chunk_tokens": 64}, "`chunk_overlap` must be less than `chunk_tokens` (64), got 64"),
        (
            {"max_length": 10, "max_query_tokens": 10},
            "`max_query_tokens` must be less than `max_length` (10), got 10",
        ),
        (
            {"api_key_env": "A", "api_key_file": "b"},
            "only one API key may be set, got `api_key_env` and `api_key_file`",
        ),
        ({"service": [1]}, "`service` must be a valid dictionary, got [1]"),
        (
            {"cache_path": "a.db", "cache_disk_entries": 0},
            "`cache_disk_entries` is 0 while `cache_path` is 'a.db'; unset `cache_path` to turn the file off",
        ),
    ],
)
def test_an_invalid_setting_is_refused_with_its_value_and_what_it_must_be(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RerankConfig(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_invalid_settings_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"`top_n` .*; `min_score` "):
        RerankConfig(top_n=0, min_score=2)


def test_an_unknown_setting_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        ConfigurationError, match=r"unknown setting 'modle' \(argument\); did you mean 'model'\?"
    ):
        RerankConfig(modle="demo")  # type: ignore[call-arg]


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RerankConfig(dtype="x" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


def test_pydantics_own_ways_in_raise_our_error_too() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'top_n'"):
        RerankConfig.model_validate({"topn": 1})
    with pytest.raises(ConfigurationError, match="`top_n` must be at least 1, got 0"):
        RerankConfig.model_validate_json('{"top_n": 0}')


def test_inside_another_pydantic_model_the_outer_model_reports_the_problem() -> None:
    class Outer(pydantic.BaseModel):
        config: RerankConfig

    assert Outer.model_validate({"config": {"top_n": 2}}).config.top_n == 2
    with pytest.raises(pydantic.ValidationError, match="did you mean 'top_n'"):
        Outer.model_validate({"config": {"topn": 2}})


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        RerankConfig().top_n = 3


def test_a_configuration_survives_copies_and_round_trips() -> None:
    config = RerankConfig(model="demo", device="cuda:1,cuda:0", min_score=0.5, service={"port": 1}).replace(
        adapters=["a", "b=0.5"]
    )
    for twin in (
        pickle.loads(pickle.dumps(config)),  # noqa: S301 (made in this line)
        copy.deepcopy(config),
        RerankConfig.model_validate(config.model_dump()),
        RerankConfig.model_validate_json(config.model_dump_json()),
    ):
        assert twin == config


@pytest.mark.parametrize("device", ["cuda:0, cuda:1", ["cuda:0", "cuda:1"], ("cuda:0", "cuda:1")])
def test_several_devices_may_be_a_list_or_comma_separated(device: Any) -> None:
    config = RerankConfig(device=device)
    assert config.device == "cuda:0,cuda:1"
    assert config.devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize("adapters", ["org/a, lr=1e-4=-2,b=c", ["org/a", Path("lr=1e-4=-2"), "b=c"]])
def test_adapters_have_weights_behind_an_equals_sign(adapters: Any) -> None:
    """Only a finite number is a weight, and the last one counts."""
    config = RerankConfig(adapters=adapters)
    assert config.adapters == ("org/a", "lr=1e-4=-2", "b=c")
    assert config.adapter_weights == {"org/a": 1.0, "lr=1e-4": -2.0, "b=c": 1.0}
    assert RerankConfig(adapters=("a=inf",)).adapter_weights == {"a=inf": 1.0}
    assert load_config(env={"QWEN_RERANK_ADAPTERS": "org/a,b=0.5"}).adapters == ("org/a", "b=0.5")


def test_the_hub_is_named_in_every_source(tmp_path: Path) -> None:
    path = tmp_path / "rerank.yaml"
    path.write_text("hub: modelscope\n", encoding="utf-8")
    assert load_config(str(path), env={}).hub == load_config(env={"QWEN_RERANK_HUB": "modelscope"}).hub
    assert load_config(str(path), env={"QWEN_RERANK_HUB": "huggingface"}).hub == RerankConfig().hub
    with pytest.raises(ConfigurationError, match="`hub` must be 'huggingface' or 'modelscope', got 'mirror'"):
        load_config(env={"QWEN_RERANK_HUB": "mirror"})


def test_a_path_is_taken_where_a_name_or_a_path_may_stand() -> None:
    config = RerankConfig(model=Path("models/small"), cache_path=Path("scores.db"))  # type: ignore[arg-type]
    assert (config.model, config.cache_path) == ("models/small", "scores.db")


def test_what_the_caller_passed_as_a_section_is_not_shared_with_the_configuration() -> None:
    section = {"port": 1}
    config = RerankConfig(service=section)
    section["port"] = 2
    assert config.service == {"port": 1}


# Secrets.


def test_a_key_is_masked_wherever_a_configuration_is_shown() -> None:
    config = RerankConfig(api_key="s3cret", service={"auth": {"api_keys": ["s3cret"]}, "max_tokens": 5})  # type: ignore[arg-type]
    shown = [repr(config), str(config), json.dumps(config.public_settings())]
    assert [text for text in shown if "s3cret" in text] == []
    assert "s3cret" not in RerankConfig(api_key="s3cret").model_dump_json()  # type: ignore[arg-type]
    assert config.public_settings()["service"] == {"auth": {"api_keys": "**********"}, "max_tokens": 5}


@pytest.mark.parametrize(
    "settings", [{"api_key": 12345678}, {"api_key": b"12345678"}, {"base_url": "http://me:12345678@host"}]
)
def test_a_refused_secret_is_not_repeated_in_the_message(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RerankConfig(**settings)
    assert "12345678" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_mask_of_a_printed_key_is_not_taken_for_a_key() -> None:
    printed = RerankConfig(api_key="s3cret").model_dump(mode="json")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="`api_key` must be a key, neither blank nor a mask"):
        RerankConfig(**printed)


def test_a_key_comes_from_whichever_setting_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n", encoding="utf-8")
    direct = RerankConfig(api_key="direct")  # type: ignore[arg-type]
    keys = [
        resolve_api_key(direct),
        resolve_api_key(RerankConfig(api_key_env="MINE"), env={"MINE": " from-env "}),
        resolve_api_key(RerankConfig(api_key_file=str(file))),
    ]
    assert [key and key.get_secret_value() for key in keys] == ["direct", "from-env", "from-file"]
    assert resolve_api_key(RerankConfig()) is None


def test_a_missing_key_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no API key in variable 'MINE' \(`api_key_env`\); set it"):
        resolve_api_key(RerankConfig(api_key_env="MINE"), env={})
    with pytest.raises(ConfigurationError, match="API key file cannot be read"):
        resolve_api_key(RerankConfig(api_key_file=str(tmp_path / "none")))


# Changed copies.


def test_a_changed_copy_is_checked_and_leaves_the_original_alone() -> None:
    config = RerankConfig(top_n=3, service={"port": 1})
    changed = config.replace(min_score=0.5, service={"host": "a"})
    assert (changed.top_n, changed.min_score, changed.service) == (3, 0.5, {"port": 1, "host": "a"})
    assert (config.min_score, config.service) == (None, {"port": 1})
    with pytest.raises(ConfigurationError, match="`top_n` must be at least 1, got 0"):
        config.replace(top_n=0)


def test_a_changed_copy_replaces_one_way_to_a_key_by_another() -> None:
    changed = RerankConfig(api_key="k").replace(api_key_env="MINE")  # type: ignore[arg-type]
    assert (changed.api_key, changed.api_key_env) == (None, "MINE")


# Sources.


def _write(folder: Path, text: str, name: str = "rerank.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plain_configuration_reads_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_RERANK_TOP_N", "7")
    assert RerankConfig().top_n is None
    assert load_config(env=None).top_n is None
    assert load_config().top_n == 7


def test_arguments_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "model: a\ntop_n: 1\nmin_score: 0.1\nretries: 9\n")
    env = {"QWEN_RERANK_MODEL": "b", "QWEN_RERANK_TOP_N": "2"}
    config, sources = load_config_with_sources(path, overrides={"model": "c"}, env=env)
    assert (config.model, config.top_n, config.min_score, config.timeout_s) == ("c", 2, 0.1, 60.0)
    assert sources["model"] == "argument"
    assert sources["top_n"] == "environment QWEN_RERANK_TOP_N"
    assert sources["min_score"] == f"file {path}"
    assert sources["timeout_s"] == "default"
    assert set(RerankConfig.model_fields) <= set(sources)


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    yaml = _write(tmp_path, "model: demo\nmin_score: 0\nservice: {port: 8501}\n", "a.yml")
    toml = _write(tmp_path, 'model = "demo"\nmin_score = 0\n[service]\nport = 8501\n', "a.toml")
    assert load_config(yaml, env={}) == load_config(toml, env={})


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = _write(tmp_path, "\ufefftop_n: 4\n")
    assert load_config(env={"QWEN_RERANK_CONFIG": str(path)}).top_n == 4
    other = _write(tmp_path, "top_n: 5\n", "other.yaml")
    assert load_config(other, env={"QWEN_RERANK_CONFIG": str(path)}).top_n == 5


def test_an_empty_file_and_empty_variables_set_nothing(tmp_path: Path) -> None:
    env = {"QWEN_RERANK_TOP_N": "", "QWEN_RERANK_CONFIG": "", "QWEN_RERANK_BOGUS": ""}
    assert load_config(_write(tmp_path, ""), env=env) == RerankConfig()


def test_variables_are_read_as_the_type_of_their_setting() -> None:
    env = {
        "QWEN_RERANK_ENABLED": "false",
        "QWEN_RERANK_MIN_SCORE": "0.5",
        "QWEN_RERANK_DEVICE": "cuda:0,cuda:1",
        "QWEN_RERANK_API_KEY": "k",
        "QWEN_RERANK_MAX_LENGTH": "1024",
    }
    config = load_config(env=env)
    assert (config.enabled, config.min_score, config.max_length) == (False, 0.5, 1024)
    assert config.devices == ("cuda:0", "cuda:1")
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "k"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"QWEN_RERANK_TOP_N": "many"},
            r"`top_n` must be a valid integer, got 'many' \(environment QWEN_RERANK_TOP_N\)",
        ),
        (
            {"QWEN_RERANK_TOP_N": "0"},
            r"`top_n` must be at least 1, got '?0'? \(environment QWEN_RERANK_TOP_N\)",
        ),
        (
            {"QWEN_RERANK_TIMEOUT_S": "inf"},
            r"`timeout_s` must be a finite number, got inf \(environment QWEN_RERANK_TIMEOUT_S\)",
        ),
        ({"QWEN_RERANK_TOPN": "3"}, "unknown setting 'QWEN_RERANK_TOPN'.*did you mean 'QWEN_RERANK_TOP_N'"),
        ({"QWEN_RERANK_BATCH": "{}"}, "unknown setting 'QWEN_RERANK_BATCH'"),
    ],
)
def test_an_invalid_variable_is_refused_by_name(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(env=env)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "topn: 3", r"unknown setting 'topn' \(file .*a.yaml\); did you mean 'top_n'"),
        ("a.yaml", "3: 3", "unknown setting 3"),
        ("a.yaml", "top_n: 0", r"`top_n` must be at least 1, got 0 \(file .*a.yaml\)"),
        ("a.yaml", "- top_n", "must be a mapping of settings, got a list"),
        ("a.yaml", "a: [", "is not valid YAML at line 1"),
        ("a.yaml", "api_key: hush-hush: x", "is not valid YAML"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("a.toml", "a = ", "is not valid TOML"),
        ("a.json", "{}", "must end in .yaml, .yml or .toml, got .*a.json"),
        ("a.yaml", "api_key: hush-hush", "not allowed in a file .*; use `api_key_env` or `api_key_file`"),
        ("a.toml", 'api_key = "hush-hush"', "not allowed in a file .*; use `api_key_env` or `api_key_file`"),
    ],
)
def test_an_invalid_file_is_refused_by_name_and_never_quoted_where_it_may_hold_a_key(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_config(_write(tmp_path, text, name), env={})
    assert "hush-hush" not in str(caught.value)


def test_a_missing_or_undecodable_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: .*none.yaml"):
        load_config(tmp_path / "none.yaml", env={})
    broken = tmp_path / "latin.yaml"
    broken.write_bytes(b"model: \xe9\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_config(broken, env={})


def test_a_stronger_source_replaces_another_way_to_the_key(tmp_path: Path) -> None:
    path = _write(tmp_path, "api_key_env: FILE_KEY\n")
    config, sources = load_config_with_sources(path, env={"QWEN_RERANK_API_KEY": "k"})
    assert (config.api_key_env, sources["api_key_env"]) == (None, "default")
    assert sources["api_key"] == "environment QWEN_RERANK_API_KEY"


def test_sections_are_merged_key_by_key_and_kept_raw(tmp_path: Path) -> None:
    path = _write(tmp_path, "service: {port: 1, host: a}\nbatch: {any: thing}\n")
    env = {"QWEN_RERANK_SERVICE_PORT": "2", "QWEN_RERANK_OPENSEARCH_URL": "https://x"}
    config, sources = load_config_with_sources(path, env=env)
    assert config.service == {"port": "2", "host": "a"}
    assert (config.opensearch, config.batch) == ({"url": "https://x"}, {"any": "thing"})
    assert sources["service.port"] == "environment QWEN_RERANK_SERVICE_PORT"
    assert sources["service.host"] == f"file {path}"


def test_reserved_variables_are_not_settings() -> None:
    env = {"QWEN_RERANK_TEST_MODEL": "/weights", "QWEN_RERANK_TEST_LONG": "1", "OTHER": "x"}
    assert load_config(env=env) == RerankConfig()


def test_variables_that_kubernetes_sets_for_a_service_of_the_same_name_are_ignored() -> None:
    """A service `qwen-rerank` in the namespace would otherwise set an unknown setting, and the address to listen on."""
    links = {
        "QWEN_RERANK_PORT": "tcp://10.0.0.7:8501",
        "QWEN_RERANK_PORT_8501_TCP": "tcp://10.0.0.7:8501",
        "QWEN_RERANK_PORT_8501_TCP_ADDR": "10.0.0.7",
        "QWEN_RERANK_PORT_8501_TCP_PORT": "8501",
        "QWEN_RERANK_PORT_8501_TCP_PROTO": "tcp",
        "QWEN_RERANK_SERVICE_HOST": "10.0.0.7",
        "QWEN_RERANK_SERVICE_PORT": "8501",
        "QWEN_RERANK_SERVICE_PORT_HTTP": "8501",
    }
    assert load_config(env=links) == RerankConfig()
    chosen = load_config(env=links | {"QWEN_RERANK_SERVICE_PORT": "9000", "QWEN_RERANK_SERVICE_HOST": "::1"})
    assert chosen.service == {"port": "9000", "host": "::1"}
    with pytest.raises(ConfigurationError, match="unknown setting 'QWEN_RERANK_PORT'"):
        load_config(env={"QWEN_RERANK_PORT": "8501"})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "top_n": st.none() | st.integers(1, 10**9),
            "min_score": st.none() | st.floats(0, 1),
            "instruction": st.none() | st.text(),
            "model": st.text(min_size=1).filter(lambda text: bool(text.strip())),
            "enabled": st.booleans(),
            "cache_entries": st.integers(0, 10**9),
            "deadline_s": st.none() | st.floats(0.001, 1e6),
        },
    )
)
def test_any_valid_configuration_is_the_same_after_its_json(settings: dict[str, Any]) -> None:
    config = RerankConfig(**settings)
    assert RerankConfig.model_validate_json(config.model_dump_json()) == config


def test_the_environment_reaches_the_sections() -> None:
    env = {"QWEN_RERANK_BATCH_TOP_N": "3", "QWEN_RERANK_OPENSEARCH_RECIPE": "simple"}
    config = load_config(env=env)
    assert (config.batch, config.opensearch) == ({"top_n": "3"}, {"recipe": "simple"})
