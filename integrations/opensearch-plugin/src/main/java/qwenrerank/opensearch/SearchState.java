package qwenrerank.opensearch;

import java.io.IOException;
import java.util.Map;

import org.opensearch.action.search.SearchRequest;
import org.opensearch.search.SearchHit;
import org.opensearch.search.builder.SearchSourceBuilder;
import org.opensearch.search.pipeline.PipelineProcessingContext;
import org.opensearch.search.sort.ScoreSortBuilder;
import org.opensearch.search.sort.SortOrder;

/** What the response half knows of a search: its page, its text and its options. */
final class SearchState {

    /** Attribute of the pipeline's processing context. */
    private static final String ATTRIBUTE = "qwen_rerank.search";

    /** Why the search is not reranked, or null. */
    final String skipReason;
    /** The text to rank for, or null if the search has none. */
    final String queryText;
    /** Options of the search. */
    final Map<String, Object> ext;
    /** Number of hits that are reranked; the integer maximum without a request half. */
    final int window;
    /** Rank of the page's first hit, from 0. */
    final int from;
    /** Number of hits on the page. */
    final int size;
    /** Whether the search fetches all hits from the first one on, of which the page is cut. */
    boolean widened;
    /** Restores the requested source, or null. */
    SourceFilter sourceFilter;

    SearchState(SearchRequest request, int window) {
        SearchSourceBuilder source = request.source() == null ? new SearchSourceBuilder() : request.source();
        ext = RerankExt.of(request);
        this.window = window;
        from = Math.max(source.from(), 0);
        size = source.size() < 0 ? 10 : source.size();
        skipReason = skipReason(request, source);
        Object text = ext.get("query_text");
        if (text != null && (text instanceof String == false || ((String) text).isBlank())) {
            throw OptionReader.invalid("query_text", text, "a text");
        }
        queryText = text != null || skipReason != null ? (String) text : QueryText.find(source.query());
    }

    private static String skipReason(SearchRequest request, SearchSourceBuilder source) {
        if (request.scroll() != null) {
            return "the search scrolls";
        }
        if (source.searchAfter() != null) {
            return "the search has search_after";
        }
        if (source.collapse() != null) {
            return "the search collapses";
        }
        if (source.size() == 0) {
            return "the search has size 0";
        }
        return isByScore(source) ? null : "the search sorts by other values than the score";
    }

    private static boolean isByScore(SearchSourceBuilder source) {
        return source.sorts() == null
            || source.sorts().stream().allMatch(one -> one instanceof ScoreSortBuilder && one.order() == SortOrder.DESC);
    }

    /** Returns whether the page begins behind the window. */
    boolean isBeyondWindow() {
        return from >= window;
    }

    /** Returns the number of fetched hits that are reranked. */
    int numRanked(int numHits) {
        return Math.min(numHits, widened ? window : Math.max(0, window - from));
    }

    /** Cuts the page out of all fetched hits, and restores their sources. */
    SearchHit[] page(SearchHit[] hits) throws IOException {
        int start = widened ? Math.min(from, hits.length) : 0;
        int end = widened ? (int) Math.min((long) start + size, hits.length) : hits.length;
        SearchHit[] page = java.util.Arrays.copyOfRange(hits, start, end);
        if (sourceFilter != null) {
            for (SearchHit hit : page) {
                sourceFilter.restore(hit);
            }
        }
        return page;
    }

    /** Hands the state over to the response half. */
    void store(PipelineProcessingContext context) {
        context.setAttribute(ATTRIBUTE, this);
    }

    /** Returns the state of the request half; without one, the state of a search whose hits are all reranked. */
    static SearchState of(SearchRequest request, PipelineProcessingContext context) {
        Object state = context == null ? null : context.getAttribute(ATTRIBUTE);
        return state == null ? new SearchState(request, Integer.MAX_VALUE) : (SearchState) state;
    }
}
