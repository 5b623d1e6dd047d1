package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BooleanSupplier;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.opensearch.common.settings.ClusterSettings;
import org.opensearch.common.settings.Settings;
import org.opensearch.common.unit.TimeValue;
import org.opensearch.core.action.ActionListener;
import org.opensearch.core.tasks.TaskCancelledException;
import org.opensearch.core.tasks.TaskId;
import org.opensearch.tasks.CancellableTask;
import org.opensearch.threadpool.ScalingExecutorBuilder;
import org.opensearch.threadpool.ThreadPool;

/** Requests to an HTTP server of this process. */
class RerankerTests {

    private static final List<String> DOCUMENTS = List.of("0.25", "0.75");

    private FakeService service;
    private ThreadPool threads;
    private ClusterSettings dynamic;
    private Reranker reranker;

    @BeforeEach
    void start() throws IOException {
        service = new FakeService();
        Settings settings = Settings.builder()
            .put("node.name", "test")
            .putList("qwen_rerank.allowed_endpoints", service.url())
            .put("qwen_rerank.max_concurrent_requests", 2)
            .put("qwen_rerank.max_queued_requests", 1)
            .put("qwen_rerank.circuit_breaker.failures", 100)
            .build();
        threads = new ThreadPool(settings, new ScalingExecutorBuilder(Reranker.THREADS, 1, 4, TimeValue.timeValueMinutes(1)));
        dynamic = new ClusterSettings(settings, new HashSet<>(NodeSettings.ALL));
        reranker = new Reranker(settings, dynamic, threads);
    }

    @AfterEach
    void stop() {
        service.close();
        ThreadPool.terminate(threads, 10, TimeUnit.SECONDS);
    }

    private CompletableFuture<RerankAnswer> rank(String timeout, CancellableTask task) {
        CompletableFuture<RerankAnswer> future = new CompletableFuture<>();
        RerankOptions options = Hits.options("endpoint", service.url(), "timeout", timeout, "instruction", "find it");
        reranker.rank(options, "query", DOCUMENTS, task, ActionListener.wrap(answer -> {
            assertTrue(Thread.currentThread().getName().contains(Reranker.THREADS), Thread.currentThread().getName());
            future.complete(answer);
        }, future::completeExceptionally));
        return future;
    }

    private static RerankException.Kind failure(CompletableFuture<RerankAnswer> future) {
        Throwable cause = assertThrows(ExecutionException.class, () -> future.get(20, TimeUnit.SECONDS)).getCause();
        return ((RerankException) cause).kind();
    }

    private static void await(BooleanSupplier condition) throws InterruptedException {
        for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20); condition.getAsBoolean() == false;) {
            assertTrue(System.nanoTime() < end, "waited in vain");
            Thread.sleep(5);
        }
    }

    @Test
    void documentsAreScored() throws Exception {
        assertArrayEquals(new double[] { 0.25, 0.75 }, rank("20s", null).get(20, TimeUnit.SECONDS).scores);
        assertEquals(
            Map.of("query", "query", "documents", DOCUMENTS, "instruction", "find it", "return_documents", false),
            service.bodies.get(0)
        );
        assertEquals(0, reranker.statistics().get("requests_in_flight"));
    }

    @Test
    void everyFailureHasAKind() {
        Map<FakeService.Behaviour, RerankException.Kind> cases = Map.of(
            (exchange, body) -> FakeService.send(exchange, 429, "{\"message\": \"busy\"}"),
            RerankException.Kind.BUSY,
            (exchange, body) -> FakeService.send(exchange, 503, "loading"),
            RerankException.Kind.UNREACHABLE,
            (exchange, body) -> FakeService.send(exchange, 401, "{}"),
            RerankException.Kind.REJECTED,
            (exchange, body) -> FakeService.send(exchange, 302, "{}"),
            RerankException.Kind.REJECTED,
            (exchange, body) -> FakeService.send(exchange, 200, "<html>"),
            RerankException.Kind.INVALID_ANSWER,
            (exchange, body) -> FakeService.send(exchange, 200, " ".repeat(100_000) + FakeService.answer(body)),
            RerankException.Kind.INVALID_ANSWER,
            (exchange, body) -> {},
            RerankException.Kind.UNREACHABLE,
            service::hang,
            RerankException.Kind.TIMEOUT
        );
        cases.forEach((behaviour, kind) -> {
            service.behaviour = behaviour;
            assertEquals(kind, failure(rank(kind == RerankException.Kind.TIMEOUT ? "500ms" : "20s", null)));
        });
        service.close();
        assertEquals(RerankException.Kind.UNREACHABLE, failure(rank("20s", null)));
        assertEquals(0, reranker.limiter.running());
    }

    @Test
    void aDrippingAnswerEndsAtTheDeadline() {
        AtomicBoolean stopped = new AtomicBoolean();
        service.behaviour = (exchange, body) -> {
            exchange.sendResponseHeaders(200, 0);
            try (OutputStream out = exchange.getResponseBody()) {
                while (service.released.await(20, TimeUnit.MILLISECONDS) == false) {
                    out.write(' ');
                    out.flush();
                }
            } catch (IOException closed) {
                stopped.set(true);
            }
        };
        assertEquals(RerankException.Kind.TIMEOUT, failure(rank("300ms", null)));
        assertEquals(0, reranker.limiter.running());
        // The connection is closed, so that the service does not drip for ever.
        org.junit.jupiter.api.Assertions.assertDoesNotThrow(() -> await(stopped::get));
    }

    @Test
    void aClosedConnectionIsTriedOnceMore() throws Exception {
        service.behaviour = (exchange, body) -> {
            if (service.bodies.size() > 1) {
                FakeService.score(exchange, body);
            }
        };
        assertNotNull(rank("20s", null).get(20, TimeUnit.SECONDS));
        assertEquals(2, service.bodies.size());
    }

    @Test
    void searchesWaitInAQueueOfLimitedLength() throws Exception {
        service.behaviour = service::hang;
        List<CompletableFuture<RerankAnswer>> first = List.of(rank("20s", null), rank("20s", null));
        await(() -> service.bodies.size() == 2);
        CompletableFuture<RerankAnswer> queued = rank("20s", null);
        assertEquals(RerankException.Kind.BUSY, failure(rank("20s", null)));
        service.behaviour = FakeService::score;
        service.released.countDown(); // both first ones end without an answer, and are tried again
        assertNotNull(queued.get(20, TimeUnit.SECONDS));
        for (CompletableFuture<RerankAnswer> one : first) {
            assertNotNull(one.get(20, TimeUnit.SECONDS));
        }
    }

    @Test
    void aDeadlineHoldsInTheQueueToo() throws Exception {
        service.behaviour = service::hang;
        rank("20s", null);
        rank("20s", null);
        assertEquals(RerankException.Kind.TIMEOUT, failure(rank("100ms", null)));
        assertEquals(0, reranker.limiter.waiting());
    }

    @Test
    void aFailingServiceIsNotCalled() throws Exception {
        dynamic.applySettings(
            Settings.builder().put("qwen_rerank.circuit_breaker.failures", 2).put("qwen_rerank.circuit_breaker.pause", "3s").build()
        );
        service.behaviour = (exchange, body) -> FakeService.send(exchange, 500, "");
        assertEquals(RerankException.Kind.UNREACHABLE, failure(rank("20s", null)));
        assertEquals(RerankException.Kind.UNREACHABLE, failure(rank("20s", null)));
        assertEquals(RerankException.Kind.CIRCUIT_OPEN, failure(rank("20s", null)));
        assertEquals(2, service.bodies.size());
        service.behaviour = FakeService::score;
        await(() -> reranker.breaker(Endpoint.parse(service.url())).state().equals("half_open"));
        assertNotNull(rank("20s", null).get(20, TimeUnit.SECONDS));
        assertEquals(Map.of(service.url(), "closed"), reranker.statistics().get("circuit_breakers"));
    }

    @Test
    void aRefusedRequestIsNoFailureOfTheService() {
        service.behaviour = (exchange, body) -> FakeService.send(exchange, 422, "{\"error\": {\"message\": \"too long\"}}");
        List<RerankException.Kind> kinds = new ArrayList<>();
        for (int i = 0; i < 7; i++) {
            kinds.add(failure(rank("20s", null)));
        }
        assertFalse(kinds.contains(RerankException.Kind.CIRCUIT_OPEN));
    }

    @Test
    void aCancelledSearchEndsAtOnce() throws Exception {
        service.behaviour = service::hang;
        CancellableTask task = new CancellableTask(1, "transport", "search", "", TaskId.EMPTY_TASK_ID, Map.of()) {
            @Override
            public boolean shouldCancelChildrenOnCancellation() {
                return true;
            }
        };
        CompletableFuture<RerankAnswer> future = rank("60s", task);
        await(() -> service.bodies.size() == 1);
        task.cancel("by a test");
        Throwable cause = assertThrows(ExecutionException.class, () -> future.get(20, TimeUnit.SECONDS)).getCause();
        assertEquals(TaskCancelledException.class, cause.getClass());
        assertEquals(0, reranker.limiter.running());
    }

    @Test
    void onlyAllowedAddressesAreCalled() {
        reranker.checkAllowed(Endpoint.parse(service.url() + "/below"));
        RerankException error = assertThrows(RerankException.class, () -> reranker.checkAllowed(Endpoint.parse("http://localhost:1")));
        assertEquals(RerankException.Kind.NOT_ALLOWED, error.kind());
        dynamic.applySettings(Settings.builder().putList("qwen_rerank.allowed_endpoints", List.of()).build());
        assertThrows(RerankException.class, () -> reranker.checkAllowed(Endpoint.parse(service.url())));
        Settings invalid = Settings.builder().putList("qwen_rerank.allowed_endpoints", "http://a@b").build();
        assertThrows(IllegalArgumentException.class, () -> NodeSettings.ALLOWED_ENDPOINTS.get(invalid));
    }
}
