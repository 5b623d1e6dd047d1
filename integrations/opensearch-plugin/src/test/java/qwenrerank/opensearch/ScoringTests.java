package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

import org.apache.lucene.search.TotalHits;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.opensearch.search.SearchHit;
import org.opensearch.search.SearchHits;

/** From a service's answer to hits in their new order. */
class ScoringTests {

    private static final String[] TEXTS = { "{\"text\": \"a\"}", "{\"text\": \"b\"}", "{}", "{\"text\": \"c\"}", "{\"text\": \"d\"}" };

    private static SearchHit[] hits() {
        SearchHit[] hits = new SearchHit[TEXTS.length];
        for (int i = 0; i < hits.length; i++) {
            hits[i] = Hits.hit(i, 10 - i, TEXTS[i]);
        }
        return hits;
    }

    private static SearchHit[] rerank(RerankOptions options, int numRanked, double... scores) {
        RerankedHits reranked = new RerankedHits(options, hits(), 1, numRanked);
        return reranked.write(reranked.order(Hits.answer(scores)));
    }

    @ParameterizedTest
    @ValueSource(
        strings = {
            "",
            "[]",
            "{}",
            "{\"results\": {}}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 0, \"relevance_score\": 0.5}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 2, \"relevance_score\": 0.5}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": -1, \"relevance_score\": 0.5}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 1, \"relevance_score\": null}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 1, \"relevance_score\": 1e999}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 1, \"relevance_score\": 0.5, \"span\": [3, 2]}]}",
            "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, 7]}" }
    )
    void anInvalidAnswerIsRefused(String body) {
        RerankException error = assertThrows(
            RerankException.class,
            () -> RerankAnswer.parse(body.getBytes(StandardCharsets.UTF_8), 2)
        );
        assertEquals(RerankException.Kind.INVALID_ANSWER, error.kind());
    }

    @Test
    void anAnswerIsReadInAnyOrderAndWithAnyNumber() {
        String body = "{\"model\": \"m\", \"results\": [{\"index\": 1, \"relevance_score\": 1}, {\"index\": 0, \"relevance_score\": 0.12345678901234567, \"span\": [2, 5]}]}";
        RerankAnswer answer = RerankAnswer.parse(body.getBytes(StandardCharsets.UTF_8), 2);
        assertArrayEquals(new double[] { 0.12345678901234567, 1 }, answer.scores);
        assertArrayEquals(new int[] { 2, 5 }, answer.spans[0]);
        assertEquals("m", answer.model);
    }

    @Test
    void hitsAreOrderedByScoreAndTiesKeepTheirOrder() {
        SearchHit[] hits = rerank(Hits.options(), 5, 0.2, 0.7, 0.2, 0.9);
        assertEquals(List.of("4", "1", "0", "3", "2"), Hits.ids(hits));
        assertEquals(0.9f, hits[0].getScore());
        assertTrue(Float.isNaN(hits[4].getScore()), "a hit without text has no score");
    }

    @Test
    void hitsBehindTheWindowKeepTheirOrderWithoutAScore() {
        SearchHit[] hits = rerank(Hits.options(), 2, 0.2, 0.7);
        assertEquals(List.of("1", "0", "2", "3", "4"), Hits.ids(hits));
        assertTrue(Float.isNaN(hits[3].getScore()));
    }

    @Test
    void aThresholdDropsLowerAndUnscoredHits() {
        assertEquals(List.of("4", "1"), Hits.ids(rerank(Hits.options("min_score", 0.7), 5, 0.2, 0.7, 0.2, 0.9)));
        assertEquals(List.of("1"), Hits.ids(rerank(Hits.options("min_score", 0.7), 2, 0.2, 0.7)));
    }

    @Test
    void ranksAreFused() {
        SearchHit[] hits = rerank(Hits.options("fusion", Map.of("method", "rrf", "k", 1)), 5, 0.3, 0.7, 0.2, 0.9);
        // Ranks of the first stage and of the model: 0 (1, 3), 1 (2, 2), 3 (4, 4), 4 (5, 1).
        assertEquals(List.of("0", "1", "4", "3", "2"), Hits.ids(hits));
        assertEquals((float) (1 / 2.0 + 1 / 4.0), hits[0].getScore());
        assertEquals((float) (1 / 6.0 + 1 / 2.0), hits[2].getScore());
    }

    @Test
    void scoresAreFused() {
        double[] fused = Fusion.weightedMean(0.25).fuse(new double[] { 10, 5, 0 }, null, new double[] { 0, 0.5, 1 }, null);
        assertArrayEquals(new double[] { 0.75, 0.5, 0.25 }, fused);
        assertArrayEquals(new double[] { 1, 1 }, Fusion.weightedMean(1).fuse(new double[] { 1, 2 }, null, new double[] { 3, 3 }, null));
    }

    @Test
    void theThresholdIsOfTheModelsScoreDespiteAFusion() {
        RerankOptions options = Hits.options("fusion", Map.of("method", "rrf"), "min_score", 0.7);
        assertEquals(List.of("1", "4"), Hits.ids(rerank(options, 5, 0.2, 0.7, 0.2, 0.9)));
    }

    @Test
    void theFirstScoreIsKeptInAField() {
        assertEquals(6f, (Float) rerank(Hits.options("keep_first_score", "first"), 5, 0.2, 0.7, 0.2, 0.9)[0].field("first").getValue());
    }

    @Test
    void hitsAreUnchangedUntilTheOrderIsComplete() {
        SearchHit[] hits = hits();
        RerankedHits reranked = new RerankedHits(Hits.options(), hits, 1, 5);
        reranked.order(Hits.answer(0.2, 0.7, 0.2, 0.9));
        assertEquals(List.of("0", "1", "2", "3", "4"), Hits.ids(hits));
        assertEquals(10f, hits[0].getScore());
    }

    @Test
    void aHitHasTheScoreAndTheHighlightOfItsBestInnerHit() {
        SearchHit[] inner = { Hits.hit("{\"t\": \"one\"}"), Hits.hit("{\"t\": \"two\"}"), Hits.hit("{\"t\": \"three\"}") };
        SearchHit hit = Hits.hit("{}");
        hit.setInnerHits(Map.of("c", new SearchHits(inner, new TotalHits(3, TotalHits.Relation.EQUAL_TO), 1)));
        RerankOptions options = Hits.options("fields", "inner_hits.c.t", "highlight", true);
        RerankedHits reranked = new RerankedHits(options, new SearchHit[] { hit }, 1, 1);
        reranked.write(reranked.order(Hits.answer(0.1, 0.8, 0.3)));
        assertEquals(0.8f, hit.getScore());
        assertEquals("two", hit.getHighlightFields().get("inner_hits.c.t").fragments()[0].string());
    }

    @Test
    void aPassageIsHighlighted() {
        SearchHit hit = Hits.hit("{\"text\": \"Long ago a whale sang.\"}");
        RerankedHits reranked = new RerankedHits(Hits.options("highlight", true), new SearchHit[] { hit }, 1, 1);
        String body = "{\"results\": [{\"index\": 0, \"relevance_score\": 0.5, \"span\": [9, 16]}]}";
        reranked.write(reranked.order(RerankAnswer.parse(body.getBytes(StandardCharsets.UTF_8), 1)));
        assertEquals("a whale", hit.getHighlightFields().get("text").fragments()[0].string());
    }
}
