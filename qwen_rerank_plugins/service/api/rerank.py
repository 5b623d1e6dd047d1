"""Handles ranking requests: admission, body, dialect, reranker, dialect, answer.

The slot in admission is released exactly once, however the request ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from qwen_rerank_plugins.service.admission import check_limits
from qwen_rerank_plugins.service.api.body import declared_bytes, read_body, run_until_disconnect
from qwen_rerank_plugins.service.app_state import AppState, app_state_of
from qwen_rerank_plugins.service.errors import BodyError, ClientGoneError, Problem, ProblemError
from qwen_rerank_plugins.service.middleware.request_context import RequestContext, context_of
from qwen_rerank_plugins.service.schemas.json_codec import dump_json, parse_json
from qwen_rerank_plugins.service.schemas.registry import read_request
from qwen_rerank_plugins.service.schemas.request import Outcome, RankingRequest, Route
from qwen_rerank_plugins.types import RerankResult

__all__ = ["ranking_endpoint"]

BYTES_PER_PAIR = 128  # estimated size of an answer, without its documents


def ranking_endpoint(route: Route) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler of a kind of address."""

    async def answer(request: Request) -> Response:
        return Response(await _handle(request, route), media_type="application/json")

    answer.__name__ = route.value
    return answer


async def _handle(request: Request, route: Route) -> bytes:
    state, context = app_state_of(request), context_of(request.scope)
    state.lifecycle.check_ready()
    state.admission.check(declared_bytes(request, state.settings))
    with state.admission.reserve_bytes() as reserve:
        with context.stage("read"):
            body = await read_body(request, state.settings, reserve)
        context.num_bytes = len(body)
        with state.admission.enter(len(body)) as slot:
            try:
                answer = await run_until_disconnect(
                    _rank(state, context, route, body),
                    request,
                    timeout_s=state.settings.request_timeout_s,
                    aborted=state.lifecycle.aborted,
                )
            except (ClientGoneError, asyncio.CancelledError):
                slot.answered = False
                raise
            except Exception as error:
                state.lifecycle.report_error(error)
                raise
            slot.scored = True
            return answer


async def _rank(state: AppState, context: RequestContext, route: Route, body: bytearray) -> bytes:
    with context.stage("parse"):
        request = await state.if_large(len(body), lambda: read_request(route, parse_json(body)))
        context.dialect, context.num_documents = request.dialect, request.num_pairs
        check_limits(request, state.settings)
        _check_model(request, state)
    with context.stage("score"):
        results = await state.lifecycle.reranker.arank_many(
            request.queries,
            request.documents,
            top_n=request.top_n,
            min_score=None,  # the configured threshold must not hide documents from clients
            instruction=request.instruction,
            deadline_s=state.settings.request_timeout_s,
        )
    context.num_tokens = sum(result.usage.num_tokens for result in results)
    _record_usage(state, results)
    if not request.allow_truncation:
        _reject_truncated(results)
    with context.stage("write"):
        outcome = Outcome(results, state.model, context.request_id, int(time.time()))
        size = len(body) + BYTES_PER_PAIR * request.num_pairs
        return await state.if_large(size, lambda: dump_json(request.render(outcome)))


def _check_model(request: RankingRequest, state: AppState) -> None:
    if state.settings.strict_model and request.model not in {None, state.model}:
        message = f"not found: no such model; use {state.model!r} or omit model"
        raise ProblemError(Problem(404, message, reason="model"))


def _record_usage(state: AppState, results: list[RerankResult]) -> None:
    metrics = state.metrics
    metrics.pairs.inc(sum(result.usage.num_pairs for result in results))
    metrics.tokens.inc(sum(result.usage.num_tokens for result in results))
    metrics.cached.inc(sum(result.usage.num_cached_pairs for result in results))
    metrics.truncated.inc(sum(score.truncated for result in results for score in result.scores))


def _reject_truncated(results: list[RerankResult]) -> None:
    for number, result in enumerate(results):
        place = f"list {number}, document" if len(results) > 1 else "document"
        for index, score in enumerate(result.scores):
            if score.truncated:
                raise BodyError(
                    f"{place} {index} is too long and would be truncated; shorten it or permit truncation"
                )
