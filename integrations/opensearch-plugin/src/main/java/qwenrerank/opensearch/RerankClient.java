package qwenrerank.opensearch;

import java.io.IOException;
import java.net.ConnectException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpTimeoutException;
import java.security.AccessController;
import java.security.PrivilegedAction;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executor;
import java.util.function.BooleanSupplier;

import org.opensearch.common.xcontent.XContentFactory;
import org.opensearch.core.common.bytes.BytesReference;
import org.opensearch.core.xcontent.XContentBuilder;

/** Sends requests to rerank services over HTTP/1.1 with kept connections. It does not wait; it neither follows redirects nor uses proxies. */
final class RerankClient {

    private static final int BYTES_PER_RESULT = 2048;
    private static final int MAX_DETAIL = 200;

    private final HttpClient http;

    @SuppressWarnings("removal") // version 2 runs under a security manager
    RerankClient(Executor executor) {
        http = AccessController.doPrivileged(
            (PrivilegedAction<HttpClient>) () -> HttpClient.newBuilder()
                .version(HttpClient.Version.HTTP_1_1)
                .followRedirects(HttpClient.Redirect.NEVER)
                .proxy(HttpClient.Builder.NO_PROXY)
                .executor(executor)
                .build()
        );
    }

    /** Writes the body of a request. */
    static byte[] body(RerankOptions options, String query, List<String> documents) throws IOException {
        try (XContentBuilder builder = XContentFactory.jsonBuilder()) {
            builder.startObject().field("query", query).field("documents", documents).field("return_documents", false);
            if (options.instruction != null) {
                builder.field("instruction", options.instruction);
            }
            if (options.model != null) {
                builder.field("model", options.model);
            }
            return BytesReference.toBytes(BytesReference.bytes(builder.endObject()));
        }
    }

    /**
     * Sends a request, again if a kept connection turns out to be closed.
     *
     * @param authorization value of the header, or null
     * @param isAbandoned whether nobody waits for the answer any more
     * @return the answer, or a {@link RerankException} with the cause
     */
    CompletableFuture<RerankAnswer> send(
        Endpoint endpoint,
        byte[] body,
        int numDocuments,
        Duration timeout,
        String authorization,
        BooleanSupplier isAbandoned
    ) {
        HttpRequest.Builder request = HttpRequest.newBuilder(endpoint.rerankUri())
            .timeout(timeout.plusSeconds(1)) // the deadline is watched elsewhere; this ends a connection that nobody waits for
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .POST(HttpRequest.BodyPublishers.ofByteArray(body));
        if (authorization != null) {
            request.header("Authorization", authorization);
        }
        HttpRequest built = request.build();
        int maxBytes = (int) Math.min(65_536L + (long) numDocuments * BYTES_PER_RESULT, Integer.MAX_VALUE);
        HttpResponse.BodyHandler<byte[]> handler = info -> new LimitedBody(maxBytes, isAbandoned);
        CompletableFuture<HttpResponse<byte[]>> sent = exchange(built, handler);
        CompletableFuture<RerankAnswer> answer = new CompletableFuture<>();
        answer.whenComplete((unused, error) -> sent.cancel(true));
        sent.handle((response, error) -> isClosedConnection(error) && isAbandoned.getAsBoolean() == false ? exchange(built, handler) : sent)
            .thenCompose(response -> response)
            .whenComplete((response, error) -> complete(answer, response, error, numDocuments));
        return answer;
    }

    @SuppressWarnings("removal") // version 2 runs under a security manager
    private CompletableFuture<HttpResponse<byte[]>> exchange(HttpRequest request, HttpResponse.BodyHandler<byte[]> handler) {
        return AccessController.doPrivileged((PrivilegedAction<CompletableFuture<HttpResponse<byte[]>>>) () -> http.sendAsync(request, handler));
    }

    private static boolean isClosedConnection(Throwable error) {
        Throwable cause = unwrap(error);
        return cause instanceof IOException && cause instanceof ConnectException == false && cause instanceof HttpTimeoutException == false;
    }

    private static Throwable unwrap(Throwable error) {
        return error instanceof CompletionException && error.getCause() != null ? error.getCause() : error;
    }

    private static void complete(CompletableFuture<RerankAnswer> answer, HttpResponse<byte[]> response, Throwable error, int numDocuments) {
        try {
            if (error != null) {
                throw failed(unwrap(error));
            }
            if (response.statusCode() != 200) {
                throw refused(response);
            }
            answer.complete(RerankAnswer.parse(response.body(), numDocuments));
        } catch (RuntimeException failure) {
            answer.completeExceptionally(failure);
        }
    }

    private static RerankException failed(Throwable error) {
        if (error instanceof HttpTimeoutException) {
            return new RerankException(RerankException.Kind.TIMEOUT, "the rerank service did not answer in time", error);
        }
        if (error instanceof IOException) {
            return new RerankException(RerankException.Kind.UNREACHABLE, "the rerank service cannot be reached: " + error, error);
        }
        return RerankException.of(error);
    }

    private static RerankException refused(HttpResponse<byte[]> response) {
        int status = response.statusCode();
        RerankException.Kind kind = status == 429 ? RerankException.Kind.BUSY
            : status >= 500 ? RerankException.Kind.UNREACHABLE
            : RerankException.Kind.REJECTED;
        return new RerankException(kind, "the rerank service answered with status " + status + detail(response.body()));
    }

    private static String detail(byte[] body) {
        try {
            Map<String, Object> answer = RerankAnswer.map(body);
            Object error = answer.get("error") instanceof Map ? ((Map<?, ?>) answer.get("error")).get("message") : answer.get("message");
            String text = error == null ? "" : ": " + error;
            return text.substring(0, Math.min(text.length(), MAX_DETAIL));
        } catch (IOException | RuntimeException notJson) {
            return "";
        }
    }
}
