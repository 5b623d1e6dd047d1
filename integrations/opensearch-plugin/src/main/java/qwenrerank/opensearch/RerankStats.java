package qwenrerank.opensearch;

import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.atomic.LongAccumulator;
import java.util.concurrent.atomic.LongAdder;

/** Counts what happened to the searches of a node since it started. */
final class RerankStats {

    private final LongAdder reranked = new LongAdder();
    private final LongAdder skipped = new LongAdder();
    private final LongAdder cancelled = new LongAdder();
    private final LongAdder documents = new LongAdder();
    private final LongAdder tookMillis = new LongAdder();
    private final LongAccumulator maxTookMillis = new LongAccumulator(Math::max, 0);
    private final Map<RerankException.Kind, LongAdder> failed = new LinkedHashMap<>();

    RerankStats() {
        for (RerankException.Kind kind : RerankException.Kind.values()) {
            failed.put(kind, new LongAdder());
        }
    }

    void reranked(int numDocuments, long millis) {
        reranked.increment();
        documents.add(numDocuments);
        tookMillis.add(millis);
        maxTookMillis.accumulate(millis);
    }

    void skipped() {
        skipped.increment();
    }

    void cancelled() {
        cancelled.increment();
    }

    void failed(RerankException.Kind kind) {
        failed.get(kind).increment();
    }

    /** Returns the counts; the values are integers and objects of integers. */
    Map<String, Object> toMap() {
        Map<String, Object> causes = new LinkedHashMap<>();
        failed.forEach((kind, count) -> causes.put(kind.name().toLowerCase(Locale.ROOT), count.sum()));
        Map<String, Object> counts = new LinkedHashMap<>();
        counts.put("reranked", reranked.sum());
        counts.put("skipped", skipped.sum());
        counts.put("failed", failed.values().stream().mapToLong(LongAdder::sum).sum());
        counts.put("failures", causes);
        counts.put("cancelled", cancelled.sum());
        counts.put("documents", documents.sum());
        counts.put("took_ms", tookMillis.sum());
        counts.put("max_took_ms", maxTookMillis.get());
        return counts;
    }
}
