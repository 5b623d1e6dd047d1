package qwenrerank.opensearch;

import java.io.IOException;
import java.util.Map;
import java.util.Objects;

import org.opensearch.action.search.SearchRequest;
import org.opensearch.core.common.io.stream.StreamInput;
import org.opensearch.core.common.io.stream.StreamOutput;
import org.opensearch.core.xcontent.XContentBuilder;
import org.opensearch.core.xcontent.XContentParser;
import org.opensearch.search.SearchExtBuilder;

/** The object {@code ext.qwen_rerank}: options in a search request, and the outcome in its response. */
final class RerankExt extends SearchExtBuilder {

    static final String NAME = "qwen_rerank";

    private final Map<String, Object> values;

    RerankExt(Map<String, Object> values) {
        this.values = values;
    }

    RerankExt(StreamInput in) throws IOException {
        this(in.readMap());
    }

    static RerankExt fromXContent(XContentParser parser) throws IOException {
        return new RerankExt(parser.map());
    }

    /** Returns the options of a request; empty if it has none. */
    static Map<String, Object> of(SearchRequest request) {
        if (request.source() == null || request.source().ext() == null) {
            return Map.of();
        }
        for (SearchExtBuilder one : request.source().ext()) {
            if (one instanceof RerankExt) {
                return ((RerankExt) one).values;
            }
        }
        return Map.of();
    }

    @Override
    public String getWriteableName() {
        return NAME;
    }

    @Override
    public void writeTo(StreamOutput out) throws IOException {
        out.writeMap(values);
    }

    @Override
    public XContentBuilder toXContent(XContentBuilder builder, Params params) throws IOException {
        return builder.field(NAME, values);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof RerankExt && values.equals(((RerankExt) other).values);
    }

    @Override
    public int hashCode() {
        return Objects.hash(NAME, values);
    }
}
