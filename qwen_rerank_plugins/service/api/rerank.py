"""The way of one request: admission, body, dialect, reranker, dialect, answer.

Each step is one call into one room. Whatever happens on the way, the request leaves the gate's books exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from qwen_rerank_plugins.service.admission import check_limits
from qwen_rerank_plugins.service.api.body import declared_bytes, read_body, while_wanted
from qwen_rerank_plugins.service.app_state import Service, service_of
from qwen_rerank_plugins.service.errors import ClientGoneError, Problem, ProblemError
from qwen_rerank_plugins.service.middleware.request_context import RequestContext, context_of
from qwen_rerank_plugins.service.schemas.json_codec import dump_json, parse_json
from qwen_rerank_plugins.service.schemas.registry import read_request
from qwen_rerank_plugins.service.schemas.request import BodyError, Outcome, RankingRequest, Route
from qwen_rerank_plugins.types import RerankResult

__all__ = ["ranking_endpoint"]

BYTES_PER_PAIR = 128  # of an answer without its documents, roughly


def ranking_endpoint(route: Route) -> Callable[[Request], Awaitable[Response]]:
    """Give the handler of a kind of address."""

    async def answer(request: Request) -> Response:
        return Response(await _answer(request, route), media_type="application/json")

    answer.__name__ = route.value
    return answer


async def _answer(request: Request, route: Route) -> bytes:
    service, context = service_of(request), context_of(request.scope)
    service.lifecycle.check_ready()
    service.gate.check(declared_bytes(request, service.settings))
    with service.gate.held_bytes() as hold:
        with context.stage("read"):
            body = await read_body(request, service.settings, hold)
        context.num_bytes = len(body)
        with service.gate.enter(len(body)) as ticket:
            try:
                answer = await while_wanted(
                    _work(service, context, route, body),
                    request,
                    timeout_s=service.settings.request_timeout_s,
                    aborted=service.lifecycle.aborted,
                )
            except (ClientGoneError, asyncio.CancelledError):
                ticket.answered = False
                raise
            except Exception as error:
                service.lifecycle.note(error)
                raise
            ticket.scored = True
            return answer


async def _work(service: Service, context: RequestContext, route: Route, body: bytearray) -> bytes:
    with context.stage("parse"):
        exchange = await service.if_large(len(body), _read, route, body)
        context.dialect, context.num_documents = exchange.dialect, exchange.num_pairs
        check_limits(exchange, service.settings)
        _check_model(exchange, service)
    with context.stage("score"):
        results = await service.lifecycle.reranker.arank_many(
            exchange.queries,
            exchange.documents,
            top_n=exchange.top_n,
            min_score=None,  # a threshold is the client's, which would not know of ours
            instruction=exchange.instruction,
            deadline_s=service.settings.request_timeout_s,
        )
    context.num_tokens = sum(result.usage.num_tokens for result in results)
    _count(service, results)
    if not exchange.allow_truncation:
        _refuse_truncated(results)
    with context.stage("write"):
        outcome = Outcome(results, service.model, context.request_id, int(time.time()))
        size = len(body) + BYTES_PER_PAIR * exchange.num_pairs
        return await service.if_large(size, _write, exchange.render, outcome)


def _read(route: Route, body: bytearray) -> RankingRequest:
    return read_request(route, parse_json(body))


def _write(render: Callable[[Outcome], Any], outcome: Outcome) -> bytes:
    return dump_json(render(outcome))


def _check_model(exchange: RankingRequest, service: Service) -> None:
    if service.settings.strict_model and exchange.model not in {None, service.model}:
        message = f"model is not served here; allowed: {service.model!r}, or none"
        raise ProblemError(Problem(404, message, reason="model"))


def _count(service: Service, results: list[RerankResult]) -> None:
    metrics = service.metrics
    metrics.pairs.inc(sum(result.usage.num_pairs for result in results))
    metrics.tokens.inc(sum(result.usage.num_tokens for result in results))
    metrics.cached.inc(sum(result.usage.num_cached_pairs for result in results))
    metrics.truncated.inc(sum(score.truncated for result in results for score in result.scores))


def _refuse_truncated(results: list[RerankResult]) -> None:
    for number, result in enumerate(results):
        place = f"list {number}, document" if len(results) > 1 else "document"
        for index, score in enumerate(result.scores):
            if score.truncated:
                raise BodyError(
                    f"{place} {index} is too long and would be cut; allowed: shorter, or truncation"
                )
