package qwenrerank.opensearch;

import java.util.Collection;
import java.util.List;
import java.util.function.Supplier;

import org.opensearch.client.Client;
import org.opensearch.cluster.metadata.IndexNameExpressionResolver;
import org.opensearch.cluster.service.ClusterService;
import org.opensearch.core.common.io.stream.NamedWriteableRegistry;
import org.opensearch.core.xcontent.NamedXContentRegistry;
import org.opensearch.env.Environment;
import org.opensearch.env.NodeEnvironment;
import org.opensearch.plugins.Plugin;
import org.opensearch.repositories.RepositoriesService;
import org.opensearch.script.ScriptService;
import org.opensearch.threadpool.ThreadPool;
import org.opensearch.watcher.ResourceWatcherService;

/** What a plugin implements against classes whose packages differ between OpenSearch 2 and 3. */
abstract class LinePlugin extends Plugin {

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
