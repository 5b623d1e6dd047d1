package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;

import org.junit.jupiter.api.Test;

class RerankOptionsTests {

    @Test
    void hasDefaults() {
        RerankOptions options = Hits.options();
        assertTrue(options.keepOrder);
        assertEquals(2000, options.timeout.millis());
        assertNull(options.minScore);
        assertNull(options.fusion);
        assertFalse(options.highlight);
    }

    @Test
    void namesAWrongOption() {
        Map<String, Object> wrong = Map.of(
            "fields", List.of("a", 1), "min_score", 1.5, "on_failure", "ignore", "timeout", "soon", "highlight", "yes", "endpoint", "ftp://x",
            "fusion", Map.of("method", "sum"), "keep_first_score", "", "instruction", 1, "colour", "red"
        );
        wrong.forEach((name, value) -> {
            Exception error = assertThrows(IllegalArgumentException.class, () -> Hits.options(name, value), name);
            String named = name.equals("endpoint") ? "ftp://x" : name;
            assertTrue(error.getMessage().contains(named), error.getMessage());
        });
    }

    @Test
    void needsAnEndpointAndFields() {
        assertThrows(IllegalArgumentException.class, () -> new RerankOptions(Map.of("endpoint", "http://localhost")));
        assertThrows(IllegalArgumentException.class, () -> new RerankOptions(Map.of("fields", "text")));
    }

    @Test
    void isOverriddenByASearch() {
        RerankOptions options = Hits.options("min_score", 0.5);
        RerankOptions overridden = options.with(Map.of("min_score", 0.25, "window", 5, "query_text", "whale", "timeout", "70ms"));
        assertEquals(0.25, overridden.minScore);
        assertEquals(70, overridden.timeout.millis());
        assertEquals(0.5, options.minScore);
        assertSame(options, options.with(Map.of("window", 5)));
        assertThrows(IllegalArgumentException.class, () -> options.with(Map.of("windows", 5)));
    }

    @Test
    void refusesTwoKindsOfInnerHits() {
        assertThrows(IllegalArgumentException.class, () -> Hits.options("fields", List.of("inner_hits.a.x", "inner_hits.b.x")));
        assertThrows(IllegalArgumentException.class, () -> Hits.options("fields", "inner_hits.a"));
    }
}
