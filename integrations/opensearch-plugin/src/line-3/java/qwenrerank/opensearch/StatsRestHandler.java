package qwenrerank.opensearch;

import java.util.List;

import org.opensearch.transport.client.node.NodeClient;
import org.opensearch.rest.BaseRestHandler;
import org.opensearch.rest.RestRequest;
import org.opensearch.rest.action.RestActions.NodesResponseRestListener;

/** {@code GET /_plugins/_qwen_rerank/stats}. */
final class StatsRestHandler extends BaseRestHandler {

    @Override
    public String getName() {
        return "qwen_rerank_stats";
    }

    @Override
    public List<Route> routes() {
        return List.of(new Route(RestRequest.Method.GET, "/_plugins/_qwen_rerank/stats"));
    }

    @Override
    protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
        return channel -> client.execute(StatsAction.INSTANCE, new StatsAction.Request(), new NodesResponseRestListener<>(channel));
    }
}
