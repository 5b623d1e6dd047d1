package qwenrerank.opensearch;

import java.io.IOException;
import java.util.List;
import java.util.Map;

import org.opensearch.action.ActionType;
import org.opensearch.action.FailedNodeException;
import org.opensearch.action.support.ActionFilters;
import org.opensearch.action.support.nodes.BaseNodeResponse;
import org.opensearch.action.support.nodes.BaseNodesRequest;
import org.opensearch.action.support.nodes.BaseNodesResponse;
import org.opensearch.action.support.nodes.TransportNodesAction;
import org.opensearch.cluster.ClusterName;
import org.opensearch.cluster.node.DiscoveryNode;
import org.opensearch.cluster.service.ClusterService;
import org.opensearch.common.inject.Inject;
import org.opensearch.core.common.io.stream.StreamInput;
import org.opensearch.core.common.io.stream.StreamOutput;
import org.opensearch.core.xcontent.ToXContentFragment;
import org.opensearch.core.xcontent.XContentBuilder;
import org.opensearch.threadpool.ThreadPool;
import org.opensearch.transport.TransportService;

/** Collects the statistics of all nodes. */
public final class StatsAction extends ActionType<StatsAction.Response> {

    static final StatsAction INSTANCE = new StatsAction();

    private StatsAction() {
        super("cluster:monitor/qwen_rerank/stats", Response::new);
    }

    /** A request to all nodes. */
    public static final class Request extends BaseNodesRequest<Request> {
        Request() {
            super(new String[0]);
        }

        Request(StreamInput in) throws IOException {
            super(in);
        }
    }

    /** One node's statistics. */
    public static final class NodeStats extends BaseNodeResponse {
        private final Map<String, Object> statistics;

        NodeStats(DiscoveryNode node, Map<String, Object> statistics) {
            super(node);
            this.statistics = statistics;
        }

        NodeStats(StreamInput in) throws IOException {
            super(in);
            statistics = in.readMap();
        }

        @Override
        public void writeTo(StreamOutput out) throws IOException {
            super.writeTo(out);
            out.writeMap(statistics);
        }
    }

    /** The statistics of all nodes. */
    public static final class Response extends BaseNodesResponse<NodeStats> implements ToXContentFragment {
        Response(ClusterName cluster, List<NodeStats> nodes, List<FailedNodeException> failures) {
            super(cluster, nodes, failures);
        }

        Response(StreamInput in) throws IOException {
            super(in);
        }

        @Override
        protected List<NodeStats> readNodesFrom(StreamInput in) throws IOException {
            return in.readList(NodeStats::new);
        }

        @Override
        protected void writeNodesTo(StreamOutput out, List<NodeStats> nodes) throws IOException {
            out.writeList(nodes);
        }

        @Override
        public XContentBuilder toXContent(XContentBuilder builder, Params params) throws IOException {
            builder.startObject("nodes");
            for (NodeStats node : getNodes()) {
                builder.startObject(node.getNode().getId()).field("name", node.getNode().getName());
                for (Map.Entry<String, Object> one : node.statistics.entrySet()) {
                    builder.field(one.getKey(), one.getValue());
                }
                builder.endObject();
            }
            return builder.endObject();
        }
    }

    /** Answers on each node. It also connects the reranker with the node's tasks, which only such an action receives. */
    public static final class Transport extends TransportNodesAction<Request, Response, Line.StatsNodeRequest, NodeStats> {
        private final Reranker reranker;

        @Inject
        public Transport(ThreadPool threads, ClusterService cluster, TransportService transport, ActionFilters filters, Reranker reranker) {
            super(
                INSTANCE.name(),
                threads,
                cluster,
                transport,
                filters,
                Request::new,
                Line.StatsNodeRequest::new,
                ThreadPool.Names.MANAGEMENT,
                NodeStats.class
            );
            this.reranker = reranker;
            reranker.setTaskManager(transport.getTaskManager());
        }

        @Override
        protected Response newResponse(Request request, List<NodeStats> nodes, List<FailedNodeException> failures) {
            return new Response(clusterService.getClusterName(), nodes, failures);
        }

        @Override
        protected Line.StatsNodeRequest newNodeRequest(Request request) {
            return new Line.StatsNodeRequest();
        }

        @Override
        protected NodeStats newNodeResponse(StreamInput in) throws IOException {
            return new NodeStats(in);
        }

        @Override
        protected NodeStats nodeOperation(Line.StatsNodeRequest request) {
            return new NodeStats(clusterService.localNode(), reranker.statistics());
        }
    }
}
