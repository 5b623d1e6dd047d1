package qwenrerank.opensearch;

import java.util.function.LongSupplier;

/**
 * Stops calling a service after consecutive failures. After a pause, one request tries the service: its success closes the
 * breaker, its failure starts another pause.
 */
final class CircuitBreaker {

    private final LongSupplier nanoTime;
    private int failures;
    private long openUntil;
    private boolean open;
    private boolean trying;

    CircuitBreaker(LongSupplier nanoTime) {
        this.nanoTime = nanoTime;
    }

    /** Returns whether a request may be sent; its outcome must be reported. */
    synchronized boolean allow() {
        if (open == false) {
            return true;
        }
        if (trying || nanoTime.getAsLong() - openUntil < 0) {
            return false;
        }
        trying = true;
        return true;
    }

    /** Reports that the service answered. */
    synchronized void success() {
        failures = 0;
        open = false;
        trying = false;
    }

    /** Reports that the service failed. */
    synchronized void failure(int maxFailures, long pauseNanos) {
        failures++;
        if (trying || failures >= maxFailures) {
            open = true;
            openUntil = nanoTime.getAsLong() + pauseNanos;
        }
        trying = false;
    }

    /** Reports that the request ended without an outcome of the service. */
    synchronized void cancelled() {
        trying = false;
    }

    /** Returns "closed", "open" or "half_open". */
    synchronized String state() {
        if (open == false) {
            return "closed";
        }
        return trying || nanoTime.getAsLong() - openUntil >= 0 ? "half_open" : "open";
    }
}
