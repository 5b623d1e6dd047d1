package qwenrerank.opensearch;

import java.util.List;
import java.util.function.Supplier;

import org.opensearch.action.search.SearchRequest;
import org.opensearch.action.search.SearchResponse;
import org.opensearch.action.support.ContextPreservingActionListener;
import org.opensearch.common.util.concurrent.AbstractRunnable;
import org.opensearch.core.action.ActionListener;
import org.opensearch.core.tasks.TaskCancelledException;
import org.opensearch.search.SearchHit;
import org.opensearch.search.pipeline.AbstractProcessor;
import org.opensearch.search.pipeline.PipelineProcessingContext;
import org.opensearch.search.pipeline.SearchResponseProcessor;
import org.opensearch.tasks.CancellableTask;

/** The response half: ranks the window's hits by the model, cuts the page, and marks the response with the outcome. */
final class RerankResponseProcessor extends AbstractProcessor implements SearchResponseProcessor {

    private final RerankOptions options;
    private final Supplier<Reranker> reranker;

    RerankResponseProcessor(String tag, String description, boolean ignoreFailure, RerankOptions options, Supplier<Reranker> reranker) {
        super(tag, description, ignoreFailure);
        this.options = options;
        this.reranker = reranker;
    }

    @Override
    public String getType() {
        return RerankExt.NAME;
    }

    @Override
    public SearchResponse processResponse(SearchRequest request, SearchResponse response) {
        throw new UnsupportedOperationException("qwen_rerank only processes asynchronously");
    }

    @Override
    public void processResponseAsync(
        SearchRequest request,
        SearchResponse response,
        PipelineProcessingContext context,
        ActionListener<SearchResponse> listener
    ) {
        Reranking work;
        try {
            SearchState state = SearchState.of(request, context);
            work = new Reranking(reranker.get(), options.with(state.ext), state, response, listener);
        } catch (Exception error) {
            listener.onFailure(error);
            return;
        }
        work.start();
    }

    /** The reranking of one response. */
    private static final class Reranking extends AbstractRunnable {

        private final Reranker reranker;
        private final RerankOptions options;
        private final SearchState search;
        private final SearchResponse response;
        private final ActionListener<SearchResponse> listener;
        private final CancellableTask task;
        private final MarkedResponse marked = new MarkedResponse();

        Reranking(Reranker reranker, RerankOptions options, SearchState search, SearchResponse response, ActionListener<SearchResponse> listener) {
            this.reranker = reranker;
            this.options = options;
            this.search = search;
            this.response = response;
            this.listener = ContextPreservingActionListener.wrapPreservingContext(ActionListener.notifyOnce(listener), reranker.threadContext());
            task = reranker.currentTask();
        }

        void start() {
            if (search.skipReason == null) {
                reranker.executor().execute(this);
            } else {
                skip(response.getHits().getHits(), response.getHits().getMaxScore(), search.skipReason);
            }
        }

        @Override
        protected void doRun() throws Exception {
            reranker.checkAllowed(options.endpoint);
            SearchHit[] hits = response.getHits().getHits();
            int firstRank = (search.widened ? 0 : search.from) + 1;
            int numRanked = search.numRanked(hits.length);
            RerankedHits reranked = new RerankedHits(options, hits, firstRank, numRanked);
            if (search.isBeyondWindow()) {
                skip(reranked.write(reranked.unscored()), Float.NaN, "the page is behind the window of " + search.window + " hits");
                return;
            }
            List<String> texts = reranked.texts();
            if (texts.isEmpty()) {
                skip(search.page(hits), response.getHits().getMaxScore(), hits.length == 0 ? "no hits" : "no hit has a text in " + options.reader.fields());
            } else if (search.queryText == null) {
                String message = "the search has no text to rank for. Set ext.qwen_rerank.query_text";
                onFailure(new RerankException(RerankException.Kind.NO_QUERY, message));
            } else {
                reranker.rank(
                    options,
                    Surrogates.repair(search.queryText),
                    texts,
                    task,
                    ActionListener.wrap(answer -> succeed(reranked, answer, texts.size()), this::onFailure)
                );
            }
        }

        private void succeed(RerankedHits reranked, RerankAnswer answer, int numDocuments) throws Exception {
            List<Candidate> order = reranked.order(answer);
            float maxScore = (float) order.stream().mapToDouble(one -> one.score).filter(one -> one == one).max().orElse(Double.NaN);
            SearchResponse result = marked.build(response, search.page(reranked.write(order)), maxScore, "reranked", answer.model, null);
            reranker.stats.reranked(numDocuments, marked.tookMillis());
            listener.onResponse(result);
        }

        private void skip(SearchHit[] page, float maxScore, String reason) {
            reranker.stats.skipped();
            listener.onResponse(marked.build(response, page, maxScore, "skipped", null, reason));
        }

        /** Keeps the first stage's order with a mark, or fails the search. */
        @Override
        public void onFailure(Exception error) {
            if (error instanceof TaskCancelledException) {
                reranker.stats.cancelled();
                listener.onFailure(error);
                return;
            }
            RerankException failure = RerankException.of(error);
            reranker.stats.failed(failure.kind());
            try {
                if (options.keepOrder) {
                    SearchHit[] page = search.page(response.getHits().getHits());
                    listener.onResponse(marked.build(response, page, response.getHits().getMaxScore(), "failed", null, failure.getMessage()));
                    return;
                }
            } catch (Exception unreadable) {
                failure.addSuppressed(unreadable);
            }
            listener.onFailure(failure);
        }
    }
}
