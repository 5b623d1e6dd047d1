package qwenrerank.opensearch;

import java.io.IOException;
import java.util.Collection;
import java.util.List;
import java.util.function.Supplier;

import org.opensearch.action.support.nodes.BaseNodeRequest;
import org.opensearch.client.Client;
import org.opensearch.client.node.NodeClient;
import org.opensearch.cluster.metadata.IndexNameExpressionResolver;
import org.opensearch.cluster.service.ClusterService;
import org.opensearch.core.common.io.stream.NamedWriteableRegistry;
import org.opensearch.core.common.io.stream.StreamInput;
import org.opensearch.core.xcontent.NamedXContentRegistry;
import org.opensearch.env.Environment;
import org.opensearch.env.NodeEnvironment;
import org.opensearch.repositories.RepositoriesService;
import org.opensearch.rest.BaseRestHandler;
import org.opensearch.rest.RestRequest;
import org.opensearch.rest.action.RestActions.NodesResponseRestListener;
import org.opensearch.script.ScriptService;
import org.opensearch.threadpool.ThreadPool;
import org.opensearch.watcher.ResourceWatcherService;

/** Classes that name others whose packages differ between OpenSearch 2 and 3. The two folders differ in these names alone. */
final class Line {

    private Line() {}

    abstract static class Plugin extends org.opensearch.plugins.Plugin {

        abstract Reranker createReranker(ClusterService cluster, ThreadPool threads);

        @Override
        public Collection<Object> createComponents(
            Client client,
            ClusterService cluster,
            ThreadPool threads,
            ResourceWatcherService watcher,
            ScriptService scripts,
            NamedXContentRegistry xContents,
            Environment environment,
            NodeEnvironment node,
            NamedWriteableRegistry writeables,
            IndexNameExpressionResolver resolver,
            Supplier<RepositoriesService> repositories
        ) {
            return List.of(createReranker(cluster, threads));
        }
    }

    abstract static class StatsHandler extends BaseRestHandler {

        @Override
        protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
            return channel -> client.execute(StatsAction.INSTANCE, new StatsAction.Request(), new NodesResponseRestListener<>(channel));
        }
    }

    /** The request for one node's statistics. */
    static final class StatsNodeRequest extends BaseNodeRequest {

        StatsNodeRequest() {}

        StatsNodeRequest(StreamInput in) throws IOException {
            super(in);
        }
    }
}
