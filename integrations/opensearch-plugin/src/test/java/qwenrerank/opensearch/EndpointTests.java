package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class EndpointTests {

    @Test
    void hasItsDefaultPortAndNoTrailingSlash() {
        assertEquals("https://reranker:443/base", Endpoint.parse("HTTPS://Reranker/base//").toString());
        assertEquals("http://reranker:80/v1/rerank", Endpoint.parse("http://reranker").rerankUri().toString());
    }

    @Test
    void matchesAHostAndAPathSegmentOnlyAsAWhole() {
        Endpoint prefix = Endpoint.parse("http://reranker:8501/a");
        assertTrue(Endpoint.parse("http://RERANKER:8501/a/b").isBelow(prefix));
        assertTrue(Endpoint.parse("http://reranker:8501/a").isBelow(prefix));
        for (String other : new String[] {
            "http://reranker:8501/ab",
            "http://reranker:8501",
            "http://reranker:85011/a",
            "https://reranker:8501/a",
            "http://reranker.evil.example:8501/a" }) {
            assertFalse(Endpoint.parse(other).isBelow(prefix), other);
        }
    }

    @ParameterizedTest
    @ValueSource(
        strings = {
            "http://reranker@evil.example/",
            "http://reranker:8501/a/../b",
            "http://reranker:8501/a/%2e%2e/b",
            "http://reranker:8501/a?x=1",
            "http://reranker/#a",
            "file:///etc/passwd",
            "reranker:8501",
            "http:///path",
            "" }
    )
    void refusesWhatCouldLeadPastAPrefix(String text) {
        assertThrows(IllegalArgumentException.class, () -> Endpoint.parse(text));
    }
}
