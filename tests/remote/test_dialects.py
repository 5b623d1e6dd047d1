"""What is sent to each kind of service, and where."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args

import httpx
import pytest

from qwen_rerank_plugins import (
    ConfigurationError,
    InputError,
    RemoteProtocolError,
    RerankConfig,
    ScoreRequest,
    TextLimits,
    recipe,
)
from qwen_rerank_plugins.remote import RemoteScorer
from qwen_rerank_plugins.remote.dialects import DIALECTS, choose_dialect
from tests.remote.servers import answer, logit, mocked, serving

NAMES = sorted(DIALECTS)
REQUESTS = [ScoreRequest("which?", text) for text in ("0.3 fox", "0.9 whale", "0.6 fox", "0.3 fox")]
SCORES = [0.3, 0.9, 0.6, 0.3]


def config_of(dialect: str, **settings: Any) -> RerankConfig:
    return RerankConfig.model_validate(
        {"backend": "remote", "base_url": "http://service.test", "dialect": dialect, **settings}
    )


def sent_by(config: RerankConfig, requests: list[ScoreRequest]) -> list[httpx.Request]:
    """The requests that a scorer makes, answered as the dialect wants it."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> tuple[int, Any]:
        sent.append(request)
        return answer(config.dialect, request.url.path, json.loads(request.content))

    scorer = RemoteScorer(config, transport=mocked(handle))
    try:
        scorer.score(requests)
    finally:
        scorer.close()
    return sent


def body_of(config: RerankConfig, instruction: str | None = None) -> dict[str, Any]:
    sent = sent_by(config, [ScoreRequest("q", text, instruction) for text in ("0.1 a", "0.2 b")])
    assert len(sent) == 1
    body: dict[str, Any] = json.loads(sent[0].content)
    return body


def test_the_configuration_names_every_dialect() -> None:
    assert sorted(get_args(RerankConfig.model_fields["dialect"].annotation)) == NAMES


# Addresses.


@pytest.mark.parametrize(
    ("dialect", "base_url", "url"),
    [
        ("qwen", "http://h:8501", "http://h:8501/rerank"),
        ("qwen", "http://h:8501/", "http://h:8501/rerank"),
        ("qwen", "http://h:8501/api", "http://h:8501/api/rerank"),
        ("qwen", "http://h:8501/v1", "http://h:8501/v1/rerank"),
        ("qwen", "http://h:8501/api/rerank/", "http://h:8501/api/rerank"),
        ("cohere", "https://h", "https://h/v2/rerank"),
        ("cohere", "https://h/v2", "https://h/v2/rerank"),
        ("cohere", "https://h/v1", "https://h/v1/rerank"),
        ("cohere", "https://h/v1/rerank", "https://h/v1/rerank"),
        ("cohere", "https://h/api", "https://h/api/v2/rerank"),
        ("jina", "https://h", "https://h/v1/rerank"),
        ("jina", "https://h/v1/", "https://h/v1/rerank"),
        ("voyage", "https://h/v1", "https://h/v1/rerank"),
        ("vllm", "http://h:8000", "http://h:8000/rerank"),
        ("vllm", "http://h:8000/v1", "http://h:8000/v1/rerank"),
        ("tei", "http://h:8080", "http://h:8080/rerank"),
        ("tei", "http://[::1]:8080/rerank", "http://[::1]:8080/rerank"),
        ("qwen", "http://rerank", "http://rerank/rerank"),
        ("qwen", "http://reranks:8501/", "http://reranks:8501/rerank"),
        ("qwen", "http://h/rerank-service", "http://h/rerank-service/rerank"),
        ("qwen", "http://h/rerank/v1", "http://h/rerank/v1/rerank"),
        ("cohere", "https://h/v2/rerank?api-version=1", "https://h/v2/rerank?api-version=1"),
        ("cohere", "https://h/?api-version=1&region=a%20b", "https://h/v2/rerank?api-version=1&region=a%20b"),
        ("jina", "https://h/v1/?deployment=a", "https://h/v1/rerank?deployment=a"),
        ("cohere", "https://h/compatible-api/v1/reranks", "https://h/compatible-api/v1/reranks"),
        ("cohere", "https://h/v1/reranking/", "https://h/v1/reranking"),
        ("cohere", "https://h/endpoints/mine/invocations", "https://h/endpoints/mine/invocations"),
        ("jina", "https://h/api/paas/v4", "https://h/api/paas/v4/rerank"),
        ("jina", "https://h/v1beta1//", "https://h/v1beta1/rerank"),
        ("jina", "https://h/v1/retrieval/ranking", "https://h/v1/retrieval/ranking"),
        ("jina", "https://h/vault", "https://h/vault/v1/rerank"),
        ("vllm", "http://h:8000/v1/score", "http://h:8000/v1/score"),
        ("llamacpp", "http://h:8080", "http://h:8080/v1/rerank"),
        ("llamacpp", "http://h:8080/reranking", "http://h:8080/reranking"),
        ("sglang", "http://h:30000", "http://h:30000/v1/rerank"),
        ("sglang", "http://h:30000/v1/", "http://h:30000/v1/rerank"),
        ("dashscope", "https://h", "https://h/api/v1/services/rerank/text-rerank/text-rerank"),
        ("dashscope", "https://h/api/v1", "https://h/api/v1/services/rerank/text-rerank/text-rerank"),
        (
            "dashscope",
            "https://h/api/v1/services/rerank/text-rerank/text-rerank/",
            "https://h/api/v1/services/rerank/text-rerank/text-rerank",
        ),
        ("dashscope", "https://h/compatible-api/v1", "https://h/compatible-api/v1/reranks"),
        ("dashscope", "https://h/compatible-api/v1/reranks", "https://h/compatible-api/v1/reranks"),
    ],
)
def test_the_path_is_added_unless_the_address_has_it(dialect: str, base_url: str, url: str) -> None:
    assert choose_dialect(dialect, base_url).url(base_url) == url


# Bodies.


@pytest.mark.parametrize(
    ("dialect", "settings", "body"),
    [
        (
            "qwen",
            {},
            {"query": "q", "documents": ["0.1 a", "0.2 b"], "return_documents": False, "return_pairs": True},
        ),
        (
            "cohere",
            {"model": "rerank-v3.5"},
            {"query": "q", "documents": ["0.1 a", "0.2 b"], "model": "rerank-v3.5", "top_n": 2},
        ),
        (
            "jina",
            {"model": "jina-reranker-v3"},
            {
                "query": "q",
                "documents": ["0.1 a", "0.2 b"],
                "model": "jina-reranker-v3",
                "top_n": 2,
                "return_documents": False,
            },
        ),
        ("vllm", {}, {"query": "q", "documents": ["0.1 a", "0.2 b"]}),
        (
            "tei",
            {"model": "never/sent"},
            {
                "query": "q",
                "texts": ["0.1 a", "0.2 b"],
                "raw_scores": True,
                "return_text": False,
                "truncate": True,
            },
        ),
        (
            "voyage",
            {"model": "rerank-2.5"},
            {
                "query": "q",
                "documents": ["0.1 a", "0.2 b"],
                "model": "rerank-2.5",
                "return_documents": False,
                "truncation": True,
            },
        ),
        (
            "dashscope",
            {"model": "qwen3-rerank"},
            {
                "model": "qwen3-rerank",
                "input": {"query": "q", "documents": ["0.1 a", "0.2 b"]},
                "parameters": {"top_n": 2, "return_documents": False},
            },
        ),
        (
            "dashscope",
            {"model": "qwen3-rerank", "base_url": "https://service.test/compatible-api/v1/reranks"},
            {"model": "qwen3-rerank", "query": "q", "documents": ["0.1 a", "0.2 b"], "top_n": 2},
        ),
        ("llamacpp", {}, {"query": "q", "documents": ["0.1 a", "0.2 b"]}),
        ("sglang", {}, {"query": "q", "documents": ["0.1 a", "0.2 b"], "return_documents": False}),
    ],
)
def test_the_body_is_the_vendor_s(dialect: str, settings: dict[str, Any], body: dict[str, Any]) -> None:
    assert body_of(config_of(dialect, **settings)) == body


@pytest.mark.parametrize("dialect", ["qwen", "vllm", "llamacpp", "sglang"])
def test_a_model_that_was_chosen_is_named_and_the_default_is_not(dialect: str) -> None:
    assert "model" not in body_of(config_of(dialect))
    assert body_of(config_of(dialect, model="mine"))["model"] == "mine"


@pytest.mark.parametrize("dialect", ["cohere", "jina", "voyage", "dashscope"])
def test_services_that_require_a_model_get_the_default_too(dialect: str) -> None:
    assert body_of(config_of(dialect))["model"] == "Qwen/Qwen3-Reranker-0.6B"


def test_headers_say_what_is_sent_and_what_is_wanted() -> None:
    headers = sent_by(config_of("qwen", api_key="s3cret"), REQUESTS)[0].headers
    assert headers["authorization"] == "Bearer s3cret"
    assert (headers["content-type"], headers["accept-encoding"]) == ("application/json", "identity")
    assert headers["user-agent"].startswith("qwen-rerank-plugins/")
    assert "authorization" not in sent_by(config_of("qwen"), REQUESTS)[0].headers


def test_a_lone_surrogate_is_replaced_because_json_has_no_bytes_for_it() -> None:
    sent = sent_by(config_of("qwen"), [ScoreRequest("q\ud800", "0.1 \udfff中")])
    body = json.loads(sent[0].content.decode())
    assert (body["query"], body["documents"]) == ("q\ufffd", ["0.1 \ufffd中"])


@pytest.mark.parametrize(
    ("dialect", "broken"),
    [
        (dialect, broken)
        for dialect in NAMES
        for broken in ("query", "instruction", "document")
        if broken != "instruction" or DIALECTS[dialect].instruction_field is not None
    ],
)
def test_a_replaced_surrogate_is_marked(dialect: str, broken: str) -> None:
    query, instruction, document = (
        f"0.1 {name}\ud83d" if name == broken else "0.1" for name in ("query", "instruction", "document")
    )
    config = config_of(dialect)
    transport = mocked(lambda request: answer(dialect, request.url.path, json.loads(request.content)))
    scorer = RemoteScorer(config, transport=transport)
    given = instruction if broken == "instruction" else None
    scores = scorer.score([ScoreRequest(query, document, given), ScoreRequest(query, "0.2", given)])
    scorer.close()
    first = (recipe.REPAIRED_TEXT,)
    assert [score.warnings for score in scores] == [first, () if broken == "document" else first]


# Instructions.


@pytest.mark.parametrize(
    ("dialect", "place"),
    [
        ("qwen", ("instruction",)),
        ("vllm", ("instruction",)),
        ("sglang", ("instruct",)),
        ("dashscope", ("parameters", "instruct")),
    ],
)
def test_an_instruction_is_sent_where_there_is_a_field(dialect: str, place: tuple[str, ...]) -> None:
    body, without = body_of(config_of(dialect), "mine"), body_of(config_of(dialect))
    for key in place[:-1]:
        body, without = body[key], without[key]
    assert body.pop(place[-1]) == "mine"
    assert body == without


def test_dashscope_s_own_form_is_spoken_at_its_full_address() -> None:
    base_url = "https://service.test/api/v1/services/rerank/text-rerank/text-rerank"
    assert set(body_of(config_of("dashscope", base_url=base_url))) == {"model", "input", "parameters"}


def test_dashscope_s_compatible_mode_takes_an_instruction_too() -> None:
    base_url = "https://service.test/compatible-api/v1"
    assert body_of(config_of("dashscope", base_url=base_url), "mine")["instruct"] == "mine"


@pytest.mark.parametrize("dialect", ["cohere", "jina", "tei", "voyage", "llamacpp"])
def test_an_instruction_is_refused_where_there_is_none(dialect: str) -> None:
    message = f"instruction cannot be sent: dialect '{dialect}' has no field for it"
    with pytest.raises(ConfigurationError, match=message):
        RemoteScorer(config_of(dialect, instruction="mine"))
    with pytest.raises(InputError, match=message):
        sent_by(config_of(dialect), [ScoreRequest("q", "0.1"), ScoreRequest("q", "0.1", "mine")])


# The template on the client's side.


LIMITS = TextLimits(max_document_tokens=5, max_query_tokens=6, max_length=100, max_chunks=2)


def test_limits_go_to_our_own_service_in_calls_of_their_own() -> None:
    requests = [ScoreRequest("q", "0.1", None, limits) for limits in (LIMITS, None, LIMITS)]
    first, second = (json.loads(one.content) for one in sent_by(config_of("qwen"), requests))
    sent = {
        "max_tokens_per_doc": 5,
        "max_tokens_per_query": 6,
        "truncate_prompt_tokens": 100,
        "max_chunks_per_doc": 2,
    }
    assert sent.items() <= first.items()
    assert (len(first["documents"]), len(second["documents"])) == (2, 1)
    assert not sent.keys() & second.keys()


@pytest.mark.parametrize("dialect", sorted(set(NAMES) - {"qwen"}))
def test_a_limit_that_a_service_does_not_know_is_refused_by_its_name(dialect: str) -> None:
    """A limit on chunks is accepted: a service without chunks never reads more than one."""
    for name, value in asdict(LIMITS).items():
        request = ScoreRequest("q", "0.1", None, TextLimits(**{name: value}))
        known = {
            "max_chunks": "",
            **({"max_document_tokens": "max_tokens_per_doc"} if dialect == "cohere" else {}),
        }
        if name in known:
            (sent,) = sent_by(config_of(dialect), [request])
            assert not known[name] or json.loads(sent.content)[known[name]] == value
            continue
        with pytest.raises(InputError, match=f"{name} cannot be sent in dialect '{dialect}'"):
            sent_by(config_of(dialect), [request])


def test_limits_and_a_prompt_made_here_exclude_each_other() -> None:
    with pytest.raises(InputError, match="limits cannot be used with template 'client'"):
        sent_by(
            config_of("cohere", template="client"),
            [ScoreRequest("q", "0.1", None, TextLimits(max_document_tokens=5))],
        )


@pytest.mark.parametrize("dialect", ["cohere", "jina", "tei", "vllm", "voyage"])
@pytest.mark.parametrize("instruction", [None, "mine"])
def test_with_template_client_the_prompt_is_in_the_texts(dialect: str, instruction: str | None) -> None:
    body = body_of(config_of(dialect, template="client"), instruction)
    wanted = instruction or recipe.DEFAULT_INSTRUCTION
    assert body["query"] == f"{recipe.PREFIX}<Instruct>: {wanted}\n<Query>: q\n"
    assert body["texts" if dialect == "tei" else "documents"] == [
        f"<Document>: {text}{recipe.SUFFIX}" for text in ("0.1 a", "0.2 b")
    ]
    assert "instruction" not in body


@pytest.mark.parametrize(("dialect", "field"), [("tei", "truncate"), ("voyage", "truncation")])
def test_with_template_client_the_service_must_not_cut(dialect: str, field: str) -> None:
    """It would silently cut off the end of the prompt, where the score is read."""
    assert body_of(config_of(dialect, template="client"))[field] is False


@pytest.mark.parametrize("dialect", ["qwen", "dashscope", "llamacpp", "sglang"])
def test_a_service_that_applies_its_template_must_not_get_another(dialect: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"template 'client' cannot be used with dialect '{dialect}'"
    ):
        RemoteScorer(config_of(dialect, template="client"))


def test_only_qwen_s_prompt_can_be_applied_here() -> None:
    with pytest.raises(ConfigurationError, match="family 'zerank' cannot be used with template 'client'"):
        RemoteScorer(config_of("tei", template="client", family="zerank"))
    RemoteScorer(config_of("tei", template="client", family="qwen3")).close()


# Over the wire.


@pytest.mark.loopback
@pytest.mark.parametrize("dialect", NAMES)
@pytest.mark.parametrize("template", ["server", "client"])
def test_every_dialect_gives_scores_in_input_order(dialect: str, template: str) -> None:
    if DIALECTS[dialect].has_template and template == "client":
        template = "server"
    with serving(dialect) as service:
        scorer = RemoteScorer(config_of(dialect, template=template, base_url=service.url))
        scores = scorer.score(REQUESTS)
        scorer.close()
    assert [one.relevance_score for one in scores] == pytest.approx(SCORES, abs=1e-12)
    has_log_odds = dialect in {"qwen", "tei"}
    assert [one.log_odds for one in scores] == (
        pytest.approx([logit(score) for score in SCORES]) if has_log_odds else [None] * 4
    )


@pytest.mark.loopback
@pytest.mark.parametrize("dialect", NAMES)
def test_more_documents_than_a_service_takes_go_in_several_calls(dialect: str) -> None:
    documents = [f"0.{number:03}1" for number in range(1, 101)]
    with serving(dialect) as service:
        scorer = RemoteScorer(config_of(dialect, base_url=service.url, max_batch_documents=30))
        scores = scorer.score([ScoreRequest("q", document) for document in documents])
        scorer.close()
    assert [one.relevance_score for one in scores] == pytest.approx([float(text) for text in documents])
    field = "texts" if dialect == "tei" else "documents"
    sizes = [len(seen.body.get("input", seen.body)[field]) for seen in service.seen]
    assert sorted(sizes) == [10, 30, 30, 30]


@pytest.mark.loopback
def test_without_a_setting_the_limit_is_the_dialect_s() -> None:
    requests = [ScoreRequest("q", f"0.{number:03}1") for number in range(1, 101)]
    with serving("tei") as service:
        scorer = RemoteScorer(config_of("tei", base_url=service.url))
        assert len(scorer.score(requests)) == 100
        scorer.close()
    assert sorted(len(seen.body["texts"]) for seen in service.seen) == [4, 32, 32, 32]


def test_the_query_counts_once_per_document_where_the_service_counts_it_so() -> None:
    """DashScope: query tokens × documents + document tokens ≤ 30,000."""
    requests = [
        ScoreRequest("a query of two hundred bytes " * 8, f"0.{number:03}1") for number in range(1, 501)
    ]
    sizes = [
        len(json.loads(one.content)["input"]["documents"])
        for one in sent_by(config_of("dashscope"), requests)
    ]
    assert sum(sizes) == 500
    assert max(sizes) * (len(requests[0].query) + 6) <= 80_000
    assert len(sizes) == 1 + 500 // max(sizes)
    assert len(sent_by(config_of("cohere"), requests)) == 1


@pytest.mark.parametrize(("dialect", "refused"), [("tei", True), ("llamacpp", False)])
def test_llama_cpp_behind_the_dialect_of_tei_is_refused_since_a_second_sigmoid_would_be_wrong(
    dialect: str, refused: bool
) -> None:
    """llama-server returns softmax(yes, no) in both of its forms, whatever `raw_scores` says."""

    def handle(request: httpx.Request) -> httpx.Response:
        body = answer(dialect, request.url.path, json.loads(request.content))[1]
        stream = httpx.ByteStream(json.dumps(body).encode())
        return httpx.Response(200, stream=stream, headers={"Server": "llama.cpp"})

    scorer = RemoteScorer(config_of(dialect), transport=httpx.MockTransport(handle))
    if refused:
        with pytest.raises(RemoteProtocolError, match=r"it is llama.cpp's, .* set dialect to 'llamacpp'"):
            scorer.score(REQUESTS)
    else:
        assert [one.relevance_score for one in scorer.score(REQUESTS)] == SCORES
    scorer.close()


def test_the_double_refuses_what_a_real_service_would() -> None:
    assert answer("cohere", "/v2/rerank", {"query": "q", "documents": []})[0] == 422
    assert answer("tei", "/rerank", {"query": "q", "texts": ["a"] * 33})[0] == 422
    assert answer("voyage", "/rerank", {})[0] == 404
    assert answer("jina", "/v1/rerank", {"query": "q", "documents": [], "model": "m", "texts": []})[0] == 422
