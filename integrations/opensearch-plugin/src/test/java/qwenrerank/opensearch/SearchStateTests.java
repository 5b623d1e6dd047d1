package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;

import org.junit.jupiter.api.Test;
import org.opensearch.action.search.SearchRequest;
import org.opensearch.common.io.stream.BytesStreamOutput;
import org.opensearch.common.unit.TimeValue;
import org.opensearch.index.query.QueryBuilders;
import org.opensearch.search.SearchHit;
import org.opensearch.search.builder.SearchSourceBuilder;
import org.opensearch.search.collapse.CollapseBuilder;
import org.opensearch.search.pipeline.PipelineProcessingContext;
import org.opensearch.search.sort.SortOrder;

/** The request half, and the page that the response half cuts. */
class SearchStateTests {

    private static SearchState widen(SearchRequest request, Map<String, Object> config) {
        PipelineProcessingContext context = new PipelineProcessingContext();
        new WindowRequestProcessor(null, null, false, config).processRequest(request, context);
        return SearchState.of(request, context);
    }

    private static SearchState widen(SearchSourceBuilder source) {
        return widen(new SearchRequest().source(source), Map.of("window", 20, "fields", List.of("text")));
    }

    private static SearchSourceBuilder source() {
        return new SearchSourceBuilder().query(QueryBuilders.matchQuery("text", "whale"));
    }

    @Test
    void aSearchFetchesTheWindowFromItsFirstHit() {
        SearchSourceBuilder source = source().from(5).size(3);
        SearchState state = widen(source);
        assertEquals(0, source.from());
        assertEquals(20, source.size());
        assertEquals("whale", state.queryText);
        SearchSourceBuilder crossing = source().from(18).size(5);
        widen(crossing);
        assertEquals(23, crossing.size());
    }

    @Test
    void aPageBehindTheWindowIsNotWidened() {
        SearchSourceBuilder source = source().from(20).size(3);
        SearchState state = widen(source);
        assertEquals(20, source.from());
        assertTrue(state.isBeyondWindow());
        assertEquals(0, state.numRanked(3));
    }

    @Test
    void pagesAreSlicesOfOneList() throws IOException {
        List<SearchHit> list = new ArrayList<>();
        for (int i = 0; i < 40; i++) {
            list.add(Hits.hit(i, 1, null));
        }
        Random random = new Random(7);
        for (int i = 0; i < 200; i++) {
            int from = random.nextInt(20);
            int size = 1 + random.nextInt(15);
            SearchSourceBuilder source = source().from(from).size(size);
            SearchState state = widen(source);
            SearchHit[] fetched = list.subList(0, Math.min(list.size(), source.size())).toArray(SearchHit[]::new);
            assertEquals(Hits.ids(list.subList(from, from + size).toArray(SearchHit[]::new)), Hits.ids(state.page(fetched)));
            assertEquals(20, state.numRanked(fetched.length));
        }
        SearchState last = widen(source().from(15).size(10));
        assertEquals(List.of("15", "16"), Hits.ids(last.page(list.subList(0, 17).toArray(SearchHit[]::new))));
        assertEquals(List.of(), Hits.ids(last.page(list.subList(0, 3).toArray(SearchHit[]::new))));
    }

    @Test
    void someSearchesPassUntouched() {
        Map<String, Consumer<SearchRequest>> kinds = Map.of(
            "sorts", request -> request.source().sort("number", SortOrder.DESC),
            "score", request -> request.source().sort("_score", SortOrder.ASC),
            "search_after", request -> request.source().sort("_score").searchAfter(new Object[] { 1.0f }),
            "scrolls", request -> request.scroll(TimeValue.timeValueMinutes(1)),
            "collapses", request -> request.source().collapse(new CollapseBuilder("group")),
            "size 0", request -> request.source().size(0)
        );
        kinds.forEach((reason, change) -> {
            SearchRequest request = new SearchRequest().source(source());
            change.accept(request);
            int size = request.source().size();
            SearchState state = widen(request, Map.of());
            assertTrue(state.skipReason.contains(reason), state.skipReason);
            assertEquals(size, request.source().size());
            assertFalse(state.widened);
        });
        assertNull(widen(source().sort("_score")).skipReason);
    }

    @Test
    void optionsOfTheSearchWin() {
        SearchRequest request = new SearchRequest().source(source().ext(List.of(new RerankExt(Map.of("window", 50, "query_text", "fish")))));
        SearchState state = widen(request, Map.of("window", 20));
        assertEquals(50, request.source().size());
        assertEquals("fish", state.queryText);
        assertThrows(IllegalArgumentException.class, () -> widen(request, Map.of("windows", 20)));
        request.source().ext(List.of(new RerankExt(Map.of("window", 0))));
        assertThrows(IllegalArgumentException.class, () -> widen(request, Map.of()));
        request.source().ext(List.of(new RerankExt(Map.of("query_text", " "))));
        assertThrows(IllegalArgumentException.class, () -> widen(request, Map.of()));
    }

    @Test
    void aSearchWithoutARequestHalfIsRankedAsItIs() throws IOException {
        SearchState state = SearchState.of(new SearchRequest().source(source().from(3).size(2)), new PipelineProcessingContext());
        SearchHit[] hits = { Hits.hit(0, 1, null), Hits.hit(1, 1, null) };
        assertEquals(2, state.numRanked(2));
        assertEquals(List.of("0", "1"), Hits.ids(state.page(hits)));
    }

    @Test
    void aSearchWithoutABodyIsWidened() {
        SearchRequest request = new SearchRequest();
        assertNull(widen(request, Map.of()).queryText);
        assertEquals(100, request.source().size());
    }

    @Test
    void theOptionsSurviveTheWire() throws IOException {
        RerankExt ext = new RerankExt(Map.of("query_text", "whale", "min_score", 0.5, "fields", List.of("a", "b"), "fusion", Map.of("method", "rrf")));
        BytesStreamOutput out = new BytesStreamOutput();
        ext.writeTo(out);
        assertEquals(ext, new RerankExt(out.bytes().streamInput()));
    }

    @Test
    void theRequestedSourceIsRestored() throws IOException {
        String json = "{\"text\":\"a whale\",\"title\":\"Whales\",\"e\":[1,2]}";
        Object[][] cases = {
            { source().fetchSource(false), List.of("text"), List.of(), "" },
            { source().fetchSource("title", null), List.of("title", "text"), List.of(), "{\"title\":\"Whales\"}" },
            { source().fetchSource(null, "e"), List.of(), List.of("e"), "{\"text\":\"a whale\",\"title\":\"Whales\"}" },
            { source().fetchSource(new String[0], new String[] { "te*", "text", "e" }), List.of(), List.of("e"), "{\"title\":\"Whales\"}" },
            { source().storedField("other"), List.of("text"), List.of(), "" }, };
        for (Object[] one : cases) {
            SearchSourceBuilder source = (SearchSourceBuilder) one[0];
            SourceFilter filter = widen(source).sourceFilter;
            assertTrue(source.fetchSource().fetchSource());
            assertEquals(one[1], List.of(source.fetchSource().includes()));
            assertEquals(one[2], List.of(source.fetchSource().excludes()));
            SearchHit hit = Hits.hit(json);
            filter.restore(hit);
            assertEquals(one[3], hit.hasSource() ? hit.getSourceAsString() : "");
        }
    }

    @Test
    void theWholeSourceIsFetchedIfTheFieldsAreUnknown() {
        SearchSourceBuilder source = source().fetchSource(null, "text");
        widen(new SearchRequest().source(source), Map.of());
        assertEquals(0, source.fetchSource().excludes().length);
    }

    @Test
    void aSearchForAllOrNoSourceIsNotChanged() {
        SearchSourceBuilder whole = source();
        assertNull(widen(whole).sourceFilter);
        assertSame(null, whole.fetchSource());
        SearchSourceBuilder none = source().storedField("_none_");
        assertNull(widen(none).sourceFilter);
    }
}
