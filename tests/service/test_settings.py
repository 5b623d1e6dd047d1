"""The section `service`: accepted values from files and variables, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_rerank_plugins import ConfigurationError, RerankConfig, load_config
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.settings import ServiceSettings


def test_the_defaults_are_those_of_a_service_for_this_machine_alone() -> None:
    settings = ServiceSettings.from_config(RerankConfig())
    assert (settings.host, settings.port, settings.is_public) == ("127.0.0.1", 8501, False)
    assert settings == ServiceSettings()


def test_variables_of_the_environment_arrive_as_text_and_are_read() -> None:
    env = {
        "QWEN_RERANK_SERVICE_PORT": "9000",
        "QWEN_RERANK_SERVICE_MAX_WAIT_S": "2.5",
        "QWEN_RERANK_SERVICE_STRICT_MODEL": "true",
        "QWEN_RERANK_SERVICE_ALLOWED_HOSTS": "a.example, b.example",
        "QWEN_RERANK_SERVICE_CORS_ORIGINS": "https://a.example",
        "QWEN_RERANK_SERVICE_LOG_FORMAT": "text",
    }
    settings = ServiceSettings.from_config(load_config(env=env), host="0.0.0.0")  # noqa: S104 (nothing is bound)
    assert (settings.port, settings.max_wait_s, settings.strict_model) == (9000, 2.5, True)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.cors_origins == ("https://a.example",)
    assert (settings.log_format, settings.is_public) == ("text", True)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"prot": 1}, "unknown setting 'prot'; did you mean 'port'"),
        ({"api_keys": "sesame-4711"}, "unknown setting 'api_keys'; .* 'api_keys_"),
        ({"port": 70000}, "`port` must be at most 65535, got 70000"),
        ({"port": True}, "`port` must be a number, got True"),
        ({"port": "http"}, "`port` must be a valid integer, got 'http'"),
        ({"max_documents": 0}, "`max_documents` must be at least 1, got 0"),
        ({"max_wait_s": "nan"}, "`max_wait_s` must be a finite number"),
        ({"host": " "}, "`host` must be a non-blank string"),
        ({"log_format": "xml"}, "`log_format` must be 'json' or 'text', got 'xml'"),
        ({"root_path": "rerank"}, "`root_path` must be a path that starts with `/`, got 'rerank'"),
        ({"tls_key": "key.pem"}, "`tls_key` .*`tls_cert`"),
        ({"on_engine_failure": "pray"}, "on_engine_failure"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(
    section: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"section 'service': .*{words}") as caught:
        create_app(RerankConfig(backend="lexical", service=section))
    assert "sesame" not in str(caught.value)


def test_settings_are_frozen_and_described() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServiceSettings().port = 1
    assert [name for name, field in ServiceSettings.model_fields.items() if not field.description] == []


def test_a_reranker_that_is_switched_off_is_no_service() -> None:
    with pytest.raises(ConfigurationError, match="enabled"):
        create_app(RerankConfig(backend="lexical", enabled=False))


def test_a_full_queue_refuses_unless_the_configuration_says_otherwise() -> None:
    served = create_app(RerankConfig(backend="lexical", on_error="keep_order")).state.service
    assert (served.config.admission, served.config.on_error) == ("reject", "raise")
    assert (
        create_app(RerankConfig(backend="lexical", admission="wait")).state.service.config.admission == "wait"
    )
