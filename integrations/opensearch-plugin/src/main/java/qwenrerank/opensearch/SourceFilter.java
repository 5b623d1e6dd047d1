package qwenrerank.opensearch;

import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

import org.opensearch.common.collect.Tuple;
import org.opensearch.common.regex.Regex;
import org.opensearch.common.xcontent.XContentHelper;
import org.opensearch.common.xcontent.XContentType;
import org.opensearch.core.common.bytes.BytesReference;
import org.opensearch.core.xcontent.XContentBuilder;
import org.opensearch.search.SearchHit;
import org.opensearch.search.builder.SearchSourceBuilder;
import org.opensearch.search.fetch.StoredFieldsContext;
import org.opensearch.search.fetch.subphase.FetchSourceContext;

/** Fetches the ranked fields although a search's {@code _source} leaves them out, and removes them from the hits again. */
final class SourceFilter {

    private final FetchSourceContext requested;

    private SourceFilter(FetchSourceContext requested) {
        this.requested = requested;
    }

    /**
     * Lets a search fetch the ranked fields.
     *
     * @param source the search, which is changed
     * @param fields the ranked fields; empty if unknown, which fetches the whole source
     * @return the filter that restores what was requested, or null if nothing had to change
     */
    static SourceFilter widen(SearchSourceBuilder source, List<String> fields) {
        StoredFieldsContext stored = source.storedFields();
        if (stored != null && stored.fetchFields() == false) { // "_none_" excludes the source
            return null;
        }
        FetchSourceContext requested = requested(source, stored);
        boolean all = requested.fetchSource() && requested.includes().length == 0 && requested.excludes().length == 0;
        if (all) {
            return null;
        }
        source.fetchSource(fields.isEmpty() ? FetchSourceContext.FETCH_SOURCE : widened(requested, HitTextReader.sourceFields(fields)));
        return new SourceFilter(requested);
    }

    private static FetchSourceContext requested(SearchSourceBuilder source, StoredFieldsContext stored) {
        if (source.fetchSource() != null) {
            return source.fetchSource();
        }
        boolean none = stored == null
            ? source.scriptFields() != null && source.scriptFields().isEmpty() == false
            : stored.fieldNames() == null || stored.fieldNames().contains("_source") == false;
        return none ? FetchSourceContext.DO_NOT_FETCH_SOURCE : FetchSourceContext.FETCH_SOURCE;
    }

    private static FetchSourceContext widened(FetchSourceContext requested, List<String> fields) {
        String[] more = fields.toArray(String[]::new);
        if (requested.fetchSource() == false) {
            return new FetchSourceContext(more.length > 0, more, new String[0]);
        }
        String[] includes = requested.includes();
        if (includes.length > 0) {
            includes = Arrays.copyOf(includes, includes.length + more.length);
            System.arraycopy(more, 0, includes, requested.includes().length, more.length);
        }
        String[] excludes = Arrays.stream(requested.excludes()).filter(one -> fields.stream().noneMatch(field -> hides(one, field))).toArray(String[]::new);
        return new FetchSourceContext(true, includes, excludes);
    }

    /** Returns whether a pattern removes a field, an object around it, or a part of it. */
    private static boolean hides(String pattern, String field) {
        return Regex.simpleMatch(pattern, field) || Regex.simpleMatch(pattern + ".*", field) || Regex.simpleMatch(field + ".*", pattern)
            || (pattern.contains("*") && Regex.simpleMatch(pattern, field + ".x"));
    }

    /** Leaves in a hit's source what was requested. */
    void restore(SearchHit hit) throws IOException {
        if (requested.fetchSource() == false) {
            hit.sourceRef(null);
        } else if (hit.hasSource()) {
            Tuple<XContentType, Map<String, Object>> source = XContentHelper.convertToMap(hit.getSourceRef(), true);
            Map<String, Object> kept = requested.getFilter().apply(source.v2());
            try (XContentBuilder builder = XContentBuilder.builder(source.v1().xContent())) {
                hit.sourceRef(BytesReference.bytes(builder.map(kept)));
            }
        }
    }
}
