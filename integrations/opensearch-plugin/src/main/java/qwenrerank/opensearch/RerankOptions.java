package qwenrerank.opensearch;

import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.opensearch.common.unit.TimeValue;

/** How the response half reranks: the processor's options, overridden by those of a search. */
final class RerankOptions {

    private static final String KNOWN =
        "endpoint, fields, instruction, model, min_score, on_failure, timeout, fusion, highlight, keep_first_score";

    final Endpoint endpoint;
    final HitTextReader reader;
    final String instruction;
    final String model;
    final Double minScore;
    final boolean keepOrder;
    final TimeValue timeout;
    final Fusion fusion;
    final boolean highlight;
    final String keepFirstScore;
    private final Map<String, Object> configured;

    /**
     * Parses the options.
     *
     * @throws IllegalArgumentException an option is missing, unknown or invalid
     */
    RerankOptions(Map<String, Object> configured) {
        this.configured = Map.copyOf(configured);
        OptionReader options = new OptionReader(configured);
        String address = options.string("endpoint");
        List<String> fields = options.strings("fields");
        if (address == null || fields.isEmpty()) {
            throw new IllegalArgumentException("qwen_rerank needs the options endpoint and fields");
        }
        endpoint = Endpoint.parse(address);
        reader = new HitTextReader(fields);
        instruction = options.string("instruction");
        model = options.string("model");
        minScore = options.number("min_score", 0, 1);
        String policy = options.string("on_failure");
        if (policy != null && List.of("keep_order", "fail").contains(policy) == false) {
            throw OptionReader.invalid("on_failure", policy, "keep_order or fail");
        }
        keepOrder = "fail".equals(policy) == false;
        timeout = options.time("timeout", TimeValue.timeValueSeconds(2));
        fusion = Fusion.parse(options.object("fusion"));
        highlight = options.flag("highlight");
        keepFirstScore = options.string("keep_first_score");
        options.end(KNOWN);
    }

    /** Returns these options with those of a search, whose {@code window} and {@code query_text} belong to the request half. */
    RerankOptions with(Map<String, Object> ext) {
        Map<String, Object> merged = new HashMap<>(configured);
        merged.putAll(ext);
        merged.keySet().removeAll(List.of("window", "query_text"));
        return merged.equals(configured) ? this : new RerankOptions(merged);
    }
}
