package qwenrerank.opensearch;

import java.util.List;
import java.util.Map;
import java.util.function.Supplier;

import org.opensearch.action.ActionRequest;
import org.opensearch.cluster.metadata.IndexNameExpressionResolver;
import org.opensearch.cluster.node.DiscoveryNodes;
import org.opensearch.cluster.service.ClusterService;
import org.opensearch.common.settings.ClusterSettings;
import org.opensearch.common.settings.IndexScopedSettings;
import org.opensearch.common.settings.Setting;
import org.opensearch.common.settings.Settings;
import org.opensearch.common.settings.SettingsFilter;
import org.opensearch.common.unit.TimeValue;
import org.opensearch.core.action.ActionResponse;
import org.opensearch.plugins.ActionPlugin;
import org.opensearch.plugins.ReloadablePlugin;
import org.opensearch.plugins.SearchPipelinePlugin;
import org.opensearch.plugins.SearchPlugin;
import org.opensearch.rest.RestController;
import org.opensearch.rest.RestHandler;
import org.opensearch.search.pipeline.Processor;
import org.opensearch.search.pipeline.SearchRequestProcessor;
import org.opensearch.search.pipeline.SearchResponseProcessor;
import org.opensearch.threadpool.ExecutorBuilder;
import org.opensearch.threadpool.ScalingExecutorBuilder;
import org.opensearch.threadpool.ThreadPool;

/** The plugin: the processors {@code qwen_rerank} of search pipelines, and their statistics. */
public final class QwenRerankPlugin extends Line.Plugin implements SearchPipelinePlugin, SearchPlugin, ActionPlugin, ReloadablePlugin {

    private static final int MAX_THREADS = 16;

    private volatile Reranker reranker;

    @Override
    Reranker createReranker(ClusterService cluster, ThreadPool threads) {
        reranker = new Reranker(cluster.getSettings(), cluster.getClusterSettings(), threads);
        return reranker;
    }

    @Override
    public List<Setting<?>> getSettings() {
        return NodeSettings.ALL;
    }

    @Override
    public void reload(Settings settings) {
        reranker.readKey(settings);
    }

    @Override
    public List<ExecutorBuilder<?>> getExecutorBuilders(Settings settings) {
        return List.of(new ScalingExecutorBuilder(Reranker.THREADS, 1, MAX_THREADS, TimeValue.timeValueMinutes(5)));
    }

    @Override
    public Map<String, Processor.Factory<SearchRequestProcessor>> getRequestProcessors(Parameters parameters) {
        return Map.of(RerankExt.NAME, (factories, tag, description, ignoreFailure, config, context) -> {
            SearchRequestProcessor processor = new WindowRequestProcessor(tag, description, ignoreFailure, config);
            config.clear(); // the pipeline reports what is left as unknown
            return processor;
        });
    }

    @Override
    public Map<String, Processor.Factory<SearchResponseProcessor>> getResponseProcessors(Parameters parameters) {
        return Map.of(RerankExt.NAME, (factories, tag, description, ignoreFailure, config, context) -> {
            RerankOptions options = new RerankOptions(config);
            config.clear();
            if (context.getPipelineSource() == Processor.PipelineSource.VALIDATE_PIPELINE) {
                reranker.checkAllowed(options.endpoint);
            }
            return new RerankResponseProcessor(tag, description, ignoreFailure, options, () -> reranker);
        });
    }

    @Override
    public List<SearchExtSpec<?>> getSearchExts() {
        return List.of(new SearchExtSpec<>(RerankExt.NAME, RerankExt::new, RerankExt::fromXContent));
    }

    @Override
    public List<ActionHandler<? extends ActionRequest, ? extends ActionResponse>> getActions() {
        return List.of(new ActionHandler<>(StatsAction.INSTANCE, StatsAction.Transport.class));
    }

    @Override
    public List<RestHandler> getRestHandlers(
        Settings settings,
        RestController rest,
        ClusterSettings cluster,
        IndexScopedSettings index,
        SettingsFilter filter,
        IndexNameExpressionResolver resolver,
        Supplier<DiscoveryNodes> nodes
    ) {
        return List.of(new StatsRestHandler());
    }
}
