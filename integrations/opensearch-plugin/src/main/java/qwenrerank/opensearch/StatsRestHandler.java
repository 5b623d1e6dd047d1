package qwenrerank.opensearch;

import java.util.List;

import org.opensearch.rest.RestRequest;

/** {@code GET /_plugins/_qwen_rerank/stats}. */
final class StatsRestHandler extends Line.StatsHandler {

    @Override
    public String getName() {
        return "qwen_rerank_stats";
    }

    @Override
    public List<Route> routes() {
        return List.of(new Route(RestRequest.Method.GET, "/_plugins/_qwen_rerank/stats"));
    }
}
