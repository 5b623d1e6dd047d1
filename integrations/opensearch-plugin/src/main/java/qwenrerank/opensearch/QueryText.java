package qwenrerank.opensearch;

import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Set;

import org.opensearch.common.xcontent.XContentHelper;
import org.opensearch.common.xcontent.XContentType;
import org.opensearch.index.query.QueryBuilder;

/** Finds the text that a query searches for. */
final class QueryText {

    /** Queries of the form {@code {field: text}} or {@code {field: {"query": text}}}. */
    private static final Set<String> BY_FIELD = Set.of("match", "match_phrase", "match_phrase_prefix", "match_bool_prefix");
    private static final Set<String> NEURAL = Set.of("neural", "neural_sparse");
    private static final Set<String> PLAIN = Set.of("multi_match", "query_string", "simple_query_string", "combined_fields");

    /** Compound query → its clauses that can have a text, the preferred first. */
    private static final Map<String, List<String>> COMPOUND = Map.of(
        "bool",
        List.of("must", "should"),
        "hybrid",
        List.of("queries"),
        "dis_max",
        List.of("queries"),
        "boosting",
        List.of("positive"),
        "constant_score",
        List.of("filter"),
        "function_score",
        List.of("query"),
        "script_score",
        List.of("query"),
        "nested",
        List.of("query")
    );

    private QueryText() {}

    /** Returns the first text of a query, or null if it has none. */
    static String find(QueryBuilder query) {
        if (query == null) {
            return null;
        }
        try {
            return find(XContentHelper.convertToMap(XContentHelper.toXContent(query, XContentType.JSON, false), true, XContentType.JSON).v2());
        } catch (IOException error) {
            throw new IllegalArgumentException("the query cannot be read: " + error.getMessage(), error);
        }
    }

    static String find(Object node) {
        if (node instanceof List) {
            return first((List<?>) node);
        }
        if (node instanceof Map == false) {
            return null;
        }
        for (Map.Entry<?, ?> query : ((Map<?, ?>) node).entrySet()) {
            String text = query.getValue() instanceof Map ? textOf(query.getKey().toString(), (Map<?, ?>) query.getValue()) : null;
            if (text != null) {
                return text;
            }
        }
        return null;
    }

    private static String textOf(String kind, Map<?, ?> body) {
        if (PLAIN.contains(kind)) {
            return asText(body.get("query"));
        }
        if (BY_FIELD.contains(kind) || NEURAL.contains(kind)) {
            String key = NEURAL.contains(kind) ? "query_text" : "query";
            for (Object field : body.values()) {
                String text = field instanceof Map ? asText(((Map<?, ?>) field).get(key)) : BY_FIELD.contains(kind) ? asText(field) : null;
                if (text != null) {
                    return text;
                }
            }
            return null;
        }
        for (String clause : COMPOUND.getOrDefault(kind, List.of())) {
            String text = find(body.get(clause));
            if (text != null) {
                return text;
            }
        }
        return null;
    }

    private static String first(List<?> queries) {
        for (Object query : queries) {
            String text = find(query);
            if (text != null) {
                return text;
            }
        }
        return null;
    }

    private static String asText(Object value) {
        return value == null || value instanceof Map || value.toString().isBlank() ? null : value.toString();
    }
}
