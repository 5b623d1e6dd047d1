package qwenrerank.opensearch;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

import org.opensearch.common.unit.TimeValue;
import org.opensearch.core.action.ActionListener;
import org.opensearch.core.tasks.TaskCancelledException;
import org.opensearch.tasks.CancellableTask;
import org.opensearch.threadpool.Scheduler;
import org.opensearch.threadpool.ThreadPool;

/**
 * One request to a rerank service, from its place in the queue to its only outcome: an answer, a failure, the deadline, or
 * the cancellation of the search.
 */
final class RerankCall {

    private static final TimeValue CANCELLATION_INTERVAL = TimeValue.timeValueMillis(50);

    private final Reranker reranker;
    private final RerankOptions options;
    private final CircuitBreaker breaker;
    private final CancellableTask task;
    private final long deadlineNanos;
    private final Runnable send = this::dispatch;
    private String query;
    private List<String> documents;
    private ActionListener<RerankAnswer> listener;
    private Scheduler.Cancellable deadline;
    private Scheduler.Cancellable cancellation;
    private CompletableFuture<RerankAnswer> answer;
    private boolean isSending;
    private boolean isAllowed;
    private volatile boolean isDone;

    RerankCall(
        Reranker reranker,
        RerankOptions options,
        String query,
        List<String> documents,
        CancellableTask task,
        ActionListener<RerankAnswer> listener
    ) {
        this.reranker = reranker;
        this.options = options;
        this.query = query;
        this.documents = documents;
        this.task = task;
        this.listener = listener;
        breaker = reranker.breaker(options.endpoint);
        deadlineNanos = System.nanoTime() + options.timeout.nanos();
    }

    /** Sends the request, or queues it. */
    void start() {
        isAllowed = breaker.allow();
        if (isAllowed == false) {
            finish(null, new RerankException(RerankException.Kind.CIRCUIT_OPEN, "the rerank service failed repeatedly and is not called for now"));
            return;
        }
        ThreadPool threads = reranker.threadPool;
        synchronized (this) {
            deadline = threads.schedule(this::expire, options.timeout, ThreadPool.Names.SAME);
            if (task != null) {
                cancellation = threads.scheduleWithFixedDelay(this::checkCancelled, CANCELLATION_INTERVAL, ThreadPool.Names.SAME);
            }
        }
        if (reranker.limiter.submit(send) == false) {
            finish(null, new RerankException(RerankException.Kind.BUSY, "too many searches wait for the rerank service"));
        }
    }

    private void expire() {
        finish(null, new RerankException(RerankException.Kind.TIMEOUT, "the rerank service did not answer within " + options.timeout));
    }

    private void checkCancelled() {
        if (task.isCancelled()) {
            finish(null, new TaskCancelledException("the search was cancelled: " + task.getReasonCancelled()));
        }
    }

    /** Runs when the limiter lets the request start; the body is written in the thread pool, since this may be any thread. */
    private void dispatch() {
        synchronized (this) {
            isSending = isDone == false;
        }
        if (isSending) {
            reranker.executor().execute(this::sendNow);
        } else {
            reranker.limiter.release();
        }
    }

    private void sendNow() {
        try {
            long left = deadlineNanos - System.nanoTime();
            List<String> texts;
            String text;
            synchronized (this) {
                if (isDone || left <= 0) {
                    return; // the deadline's timer answers
                }
                text = query;
                texts = documents;
            }
            byte[] body = RerankClient.body(options, text, texts);
            CompletableFuture<RerankAnswer> sent = reranker.client.send(
                options.endpoint,
                body,
                texts.size(),
                Duration.ofNanos(left),
                reranker.authorization(),
                () -> isDone
            );
            synchronized (this) {
                answer = sent;
            }
            sent.whenComplete(this::finish);
            if (isDone) {
                sent.cancel(true);
            }
        } catch (Exception error) {
            finish(null, error);
        }
    }

    private void finish(RerankAnswer result, Throwable error) {
        ActionListener<RerankAnswer> waiting;
        synchronized (this) {
            if (isDone) {
                return;
            }
            isDone = true;
            waiting = listener;
            listener = null; // a late answer must not keep the search's hits in memory
            query = null;
            documents = null;
        }
        Throwable cause = error instanceof CompletionException && error.getCause() != null ? error.getCause() : error;
        cleanUp();
        report(cause);
        reranker.executor().execute(() -> {
            if (cause == null) {
                waiting.onResponse(result);
            } else {
                waiting.onFailure(cause instanceof TaskCancelledException ? (TaskCancelledException) cause : RerankException.of(cause));
            }
        });
    }

    private void cleanUp() {
        if (deadline != null) {
            deadline.cancel();
        }
        if (cancellation != null) {
            cancellation.cancel();
        }
        if (answer != null) {
            answer.cancel(true);
        }
        if (isSending) {
            reranker.limiter.release();
        } else {
            reranker.limiter.remove(send);
        }
    }

    /** Tells the circuit breaker; a refused, a queued or a cancelled request says nothing about the service. */
    private void report(Throwable cause) {
        if (isAllowed == false) {
            return;
        }
        RerankException.Kind kind = cause instanceof RerankException ? ((RerankException) cause).kind() : RerankException.Kind.INTERNAL;
        if (cause == null || kind == RerankException.Kind.REJECTED) {
            breaker.success();
        } else if (isSending && List.of(RerankException.Kind.TIMEOUT, RerankException.Kind.UNREACHABLE, RerankException.Kind.INVALID_ANSWER).contains(kind)) {
            reranker.reportFailure(breaker);
        } else {
            breaker.cancelled();
        }
    }
}
