package qwenrerank.opensearch;

import java.util.List;
import java.util.Map;

import org.opensearch.action.search.SearchRequest;
import org.opensearch.search.builder.SearchSourceBuilder;
import org.opensearch.search.pipeline.AbstractProcessor;
import org.opensearch.search.pipeline.PipelineProcessingContext;
import org.opensearch.search.pipeline.StatefulSearchRequestProcessor;

/** The request half: lets a search fetch the whole window, and remembers the page, the query's text and the source filter. */
final class WindowRequestProcessor extends AbstractProcessor implements StatefulSearchRequestProcessor {

    private static final int MAX_WINDOW = 10_000;

    private final int window;
    private final List<String> fields;

    /**
     * Creates the processor.
     *
     * @throws IllegalArgumentException an option is unknown or invalid
     */
    WindowRequestProcessor(String tag, String description, boolean ignoreFailure, Map<String, Object> config) {
        super(tag, description, ignoreFailure);
        OptionReader options = new OptionReader(config);
        window = options.count("window", 100, MAX_WINDOW);
        fields = options.strings("fields");
        options.end("window, fields");
    }

    @Override
    public String getType() {
        return RerankExt.NAME;
    }

    @Override
    public SearchRequest processRequest(SearchRequest request, PipelineProcessingContext context) {
        OptionReader ext = new OptionReader(RerankExt.of(request));
        SearchState state = new SearchState(request, ext.count("window", window, MAX_WINDOW));
        if (state.skipReason == null && state.isBeyondWindow() == false) {
            if (request.source() == null) {
                request.source(new SearchSourceBuilder());
            }
            List<String> chosen = ext.strings("fields");
            request.source().from(0).size(Math.max(state.window, (int) Math.min((long) state.from + state.size, Integer.MAX_VALUE)));
            state.widened = true;
            state.sourceFilter = SourceFilter.widen(request.source(), chosen.isEmpty() ? fields : chosen);
        }
        state.store(context);
        return request;
    }
}
