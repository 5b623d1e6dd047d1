package qwenrerank.opensearch;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;

import org.opensearch.common.settings.ClusterSettings;
import org.opensearch.common.settings.Settings;
import org.opensearch.common.unit.TimeValue;
import org.opensearch.common.util.concurrent.ThreadContext;
import org.opensearch.core.action.ActionListener;
import org.opensearch.core.common.settings.SecureString;
import org.opensearch.tasks.CancellableTask;
import org.opensearch.tasks.TaskManager;
import org.opensearch.tasks.TaskResourceTrackingService;
import org.opensearch.threadpool.ThreadPool;

/** Calls rerank services within a node's limits: allowed addresses, concurrent requests, circuit breakers. */
final class Reranker {

    /** The thread pool of everything that this plugin computes; nothing in it waits. */
    static final String THREADS = "qwen_rerank";

    final ThreadPool threadPool;
    final RequestLimiter limiter;
    final RerankClient client;
    final RerankStats stats = new RerankStats();
    private final Map<String, CircuitBreaker> breakers = new ConcurrentHashMap<>();
    private volatile List<String> allowed;
    private volatile String authorization;
    private volatile int breakerFailures;
    private volatile TimeValue breakerPause;
    private volatile TaskManager tasks;

    Reranker(Settings settings, ClusterSettings dynamic, ThreadPool threadPool) {
        this.threadPool = threadPool;
        client = new RerankClient(executor());
        limiter = new RequestLimiter(
            NodeSettings.MAX_CONCURRENT_REQUESTS.get(settings),
            NodeSettings.MAX_QUEUED_REQUESTS.get(settings)
        );
        allowed = NodeSettings.ALLOWED_ENDPOINTS.get(settings);
        breakerFailures = NodeSettings.BREAKER_FAILURES.get(settings);
        breakerPause = NodeSettings.BREAKER_PAUSE.get(settings);
        dynamic.addSettingsUpdateConsumer(NodeSettings.ALLOWED_ENDPOINTS, value -> allowed = value);
        dynamic.addSettingsUpdateConsumer(NodeSettings.BREAKER_FAILURES, value -> breakerFailures = value);
        dynamic.addSettingsUpdateConsumer(NodeSettings.BREAKER_PAUSE, value -> breakerPause = value);
        dynamic.addSettingsUpdateConsumer(NodeSettings.MAX_CONCURRENT_REQUESTS, limiter::setMaxRunning);
        dynamic.addSettingsUpdateConsumer(NodeSettings.MAX_QUEUED_REQUESTS, limiter::setMaxWaiting);
        readKey(settings);
    }

    /**
     * Reads the key from the keystore.
     *
     * @throws IllegalArgumentException the key has a character that a header cannot contain; the message does not contain the key
     */
    void readKey(Settings settings) {
        try (SecureString key = NodeSettings.API_KEY.get(settings)) {
            if (key.chars().anyMatch(one -> one <= ' ' || one > '~')) {
                throw new IllegalArgumentException("qwen_rerank.api_key has a character that is not visible ASCII");
            }
            authorization = key.length() == 0 ? null : "Bearer " + key;
        }
    }

    /** Sets where the tasks of searches are found. */
    void setTaskManager(TaskManager tasks) {
        this.tasks = tasks;
    }

    Executor executor() {
        return threadPool.executor(THREADS);
    }

    ThreadContext threadContext() {
        return threadPool.getThreadContext();
    }

    String authorization() {
        return authorization;
    }

    /** Returns the task of the search that the current thread works for, or null if it is not known. */
    CancellableTask currentTask() {
        Object id = threadContext().getTransient(TaskResourceTrackingService.TASK_ID);
        return id instanceof Long && tasks != null ? tasks.getCancellableTask((Long) id) : null;
    }

    /**
     * Throws unless an address may be called.
     *
     * @throws RerankException no prefix in the setting allows it
     */
    void checkAllowed(Endpoint endpoint) {
        if (allowed.stream().map(Endpoint::parse).noneMatch(endpoint::isBelow)) {
            throw new RerankException(
                RerankException.Kind.NOT_ALLOWED,
                "the endpoint [" + endpoint + "] is not allowed. Add it to the cluster setting " + NodeSettings.ALLOWED_ENDPOINTS.getKey()
            );
        }
    }

    /**
     * Scores documents with a service, and calls the listener once in the thread pool: with the answer, with a
     * {@link RerankException}, or with a cancellation.
     */
    void rank(RerankOptions options, String query, List<String> documents, CancellableTask task, ActionListener<RerankAnswer> listener) {
        new RerankCall(this, options, query, documents, task, listener).start();
    }

    CircuitBreaker breaker(Endpoint endpoint) {
        return breakers.computeIfAbsent(endpoint.origin(), unused -> new CircuitBreaker(System::nanoTime));
    }

    void reportFailure(CircuitBreaker breaker) {
        breaker.failure(breakerFailures, breakerPause.nanos());
    }

    /** Returns the node's statistics. */
    Map<String, Object> statistics() {
        Map<String, Object> states = new LinkedHashMap<>();
        breakers.forEach((origin, breaker) -> states.put(origin, breaker.state()));
        Map<String, Object> all = stats.toMap();
        all.put("requests_in_flight", limiter.running());
        all.put("requests_queued", limiter.waiting());
        all.put("circuit_breakers", states);
        return all;
    }
}
