package qwenrerank.opensearch;

import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;

/** An HTTP server that behaves as a test sets. */
final class FakeService implements AutoCloseable {

    /** Answers a request whose body was read. */
    interface Behaviour {
        void answer(HttpExchange exchange, Map<String, Object> body) throws Exception;
    }

    final List<Map<String, Object>> bodies = new CopyOnWriteArrayList<>();
    final CountDownLatch released = new CountDownLatch(1);
    volatile Behaviour behaviour = FakeService::score;
    private final ExecutorService threads = Executors.newCachedThreadPool();
    private final HttpServer server;

    FakeService() throws IOException {
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setExecutor(threads);
        server.createContext("/", exchange -> {
            Map<String, Object> body = RerankAnswer.map(exchange.getRequestBody().readAllBytes());
            bodies.add(body);
            try {
                behaviour.answer(exchange, body);
            } catch (Exception error) {
                throw new IOException(error);
            } finally {
                exchange.close();
            }
        });
        server.start();
    }

    String url() {
        return "http://" + InetAddress.getLoopbackAddress().getHostAddress() + ":" + server.getAddress().getPort();
    }

    /** Scores a document by its number. */
    static void score(HttpExchange exchange, Map<String, Object> body) throws IOException {
        send(exchange, 200, answer(body));
    }

    static String answer(Map<String, Object> body) {
        StringBuilder results = new StringBuilder();
        List<?> documents = (List<?>) body.get("documents");
        for (int i = 0; i < documents.size(); i++) {
            results.append(i == 0 ? "" : ",").append("{\"index\": " + i + ", \"relevance_score\": " + documents.get(i) + "}");
        }
        return "{\"results\": [" + results + "]}";
    }

    static void send(HttpExchange exchange, int status, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().put("Location", Collections.singletonList("/elsewhere"));
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
    }

    /** Answers when the test ends. */
    void hang(HttpExchange exchange, Map<String, Object> body) throws InterruptedException {
        released.await(60, TimeUnit.SECONDS);
    }

    @Override
    public void close() {
        released.countDown();
        server.stop(0);
        threads.shutdownNow();
    }
}
