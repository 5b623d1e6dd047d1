package qwenrerank.opensearch;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

import org.opensearch.action.search.SearchResponse;
import org.opensearch.action.search.SearchResponseSections;
import org.opensearch.search.SearchExtBuilder;
import org.opensearch.search.SearchHit;
import org.opensearch.search.SearchHits;
import org.opensearch.search.profile.SearchProfileShardResults;

/** Builds a response with other hits and the outcome in {@code ext.qwen_rerank}; everything else is kept. */
final class MarkedResponse {

    private final long startedNanos = System.nanoTime();

    /** Returns the time since this object was created. */
    long tookMillis() {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startedNanos);
    }

    /**
     * Builds the response.
     *
     * @param model name of the model, or null
     * @param reason why the hits are not reranked, or null
     */
    SearchResponse build(SearchResponse response, SearchHit[] page, float maxScore, String status, String model, String reason) {
        Map<String, Object> outcome = new LinkedHashMap<>();
        outcome.put("status", status);
        outcome.put("took_ms", tookMillis());
        if (model != null) {
            outcome.put("model", model);
        }
        if (reason != null) {
            outcome.put("reason", reason);
        }
        return new SearchResponse(
            sections(response, page, maxScore, new RerankExt(outcome)),
            response.getScrollId(),
            response.getTotalShards(),
            response.getSuccessfulShards(),
            response.getSkippedShards(),
            response.getTook().millis(),
            response.getPhaseTook(),
            response.getShardFailures(),
            response.getClusters(),
            response.pointInTimeId()
        );
    }

    private static SearchResponseSections sections(SearchResponse response, SearchHit[] page, float maxScore, RerankExt outcome) {
        SearchHits hits = response.getHits();
        SearchResponseSections sections = response.getInternalResponse();
        List<SearchExtBuilder> exts = new ArrayList<>(sections.getSearchExtBuilders());
        exts.removeIf(one -> one instanceof RerankExt);
        exts.add(outcome);
        return new SearchResponseSections(
            new SearchHits(page, hits.getTotalHits(), maxScore, hits.getSortFields(), hits.getCollapseField(), hits.getCollapseValues()),
            response.getAggregations(),
            response.getSuggest(),
            response.isTimedOut(),
            response.isTerminatedEarly(),
            response.getProfileResults().isEmpty() ? null : new SearchProfileShardResults(response.getProfileResults()),
            response.getNumReducePhases(),
            exts,
            sections.getProcessorResult()
        );
    }
}
