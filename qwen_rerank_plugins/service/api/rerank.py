"""Handles ranking requests: admission, body, dialect, reranker, dialect, answer.

The slot in admission is released exactly once, however the request ends.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from qwen_rerank_plugins.errors import InputError
from qwen_rerank_plugins.recipe import REPAIRED_TEXT
from qwen_rerank_plugins.service.admission import check_limits
from qwen_rerank_plugins.service.api.body import check_declared_size, read_body, run_until_disconnect
from qwen_rerank_plugins.service.app_state import AppState, app_state_of
from qwen_rerank_plugins.service.errors import BodyError, ClientGoneError
from qwen_rerank_plugins.service.metrics import Metrics
from qwen_rerank_plugins.service.middleware.request_context import RequestContext, context_of
from qwen_rerank_plugins.service.schemas import answers, read_request
from qwen_rerank_plugins.service.schemas.dialect import LIMIT_NAMES, Dialect, Outcome, RankingRequest, Route
from qwen_rerank_plugins.service.schemas.json_codec import check_headers, dump_json, parse_json
from qwen_rerank_plugins.types import Priority, RerankResult, TextLimits

__all__ = ["rank"]

_BACKGROUND = re.compile(r"(?:^|,)\s*u\s*=\s*7\s*(?:[,;]|$)")
BYTES_PER_PAIR = 128  # estimated size of an answer, without its documents


async def rank(request: Request, route: Route) -> Response:
    """Rank the documents of a request to a kind of address."""
    state, context = app_state_of(request), context_of(request.scope)
    settings = state.settings
    state.lifecycle.check_ready()
    check_headers(request.headers)
    state.admission.check(check_declared_size(request, settings.max_body_bytes))
    is_background = settings.honor_priority and _BACKGROUND.search(request.headers.get("priority", ""))
    with state.admission.reserve_bytes() as reserve:
        with context.stage("read"):
            body = await read_body(request, settings, reserve)
        context.num_bytes = len(body)
        # The spans of documents are scored after the documents, so their text counts twice.
        with state.admission.enter(len(body) * (2 if b'"relevant_spans"' in body else 1)) as slot:
            try:
                answer = await run_until_disconnect(
                    _rank(state, context, route, body, "background" if is_background else "interactive"),
                    request,
                    timeout_s=settings.request_timeout_s,
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


async def _rank(
    state: AppState, context: RequestContext, route: Route, body: bytearray, priority: Priority
) -> Response:
    def parse() -> tuple[Dialect, RankingRequest, bool]:
        value, is_repaired = parse_json(body)
        dialect = read_request(route, value)
        return dialect, dialect.to_request(), is_repaired

    with context.stage("parse"):
        dialect, request, is_repaired = await state.if_large(len(body), parse)
        context.dialect, context.num_documents = dialect.name, request.num_pairs
        check_limits(request, state.settings)
        state.check_model(request.model)
    spans = request.spans and replace(request.spans, max_scored=state.settings.max_pairs)
    with context.stage("score"):
        try:
            results = await state.lifecycle.reranker.arank_many(
                request.queries,
                request.documents,
                top_n=request.top_n,
                min_score=request.min_score,  # None for none: the configured threshold must not hide documents
                instruction=request.instruction,
                deadline_s=state.settings.request_timeout_s,
                priority=priority,
                limits=request.limits,
                spans=spans,
            )
        except InputError as error:
            raise InputError(_with_field_names(str(error), request.limits)) from error
    context.num_tokens = sum(result.usage.num_tokens for result in results)
    _record_usage(state.metrics, results, context.num_tokens)
    if not request.allow_truncation:
        _reject_truncated(results)
    warnings = [REPAIRED_TEXT] * is_repaired + [warning for result in results for warning in result.warnings]
    for warning in (unique_warnings := tuple(dict.fromkeys(warnings))):
        state.metrics.warnings.labels(warning).inc()
    with context.stage("write"):
        outcome = Outcome(
            results=results,
            model=state.model,
            request_id=context.request_id,
            created_s=int(time.time()),
            return_documents=state.settings.return_documents,
            warnings=unique_warnings,
        )
        size = len(body) + BYTES_PER_PAIR * sum(result.usage.num_pairs for result in results)
        answer = await state.if_large(size, lambda: dump_json(dialect.from_result(outcome)))
    # Not every dialect has a place for warnings and for the mark of calibrated answers.
    headers = {"X-Rerank-Warnings": "; ".join(unique_warnings)} if unique_warnings else {}
    if (calibrated := answers.status(results).get("calibrated")) is not None:
        headers["X-Rerank-Calibrated"] = str(calibrated).lower()
    return Response(answer, headers=headers, media_type="application/json")


def _with_field_names(message: str, limits: TextLimits | None) -> str:
    """Replace limits by the fields that set them, unless the message is about the configured value of a limit."""
    for field, name in LIMIT_NAMES.items():
        value = getattr(limits, name, None)
        if value is not None and not re.search(rf"{name} is (?!{value}\b)", message):
            message = message.replace(name, field)
    return message


def _record_usage(metrics: Metrics, results: list[RerankResult], num_tokens: int) -> None:
    metrics.pairs.inc(sum(result.usage.num_pairs for result in results))
    metrics.tokens.inc(num_tokens)
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
