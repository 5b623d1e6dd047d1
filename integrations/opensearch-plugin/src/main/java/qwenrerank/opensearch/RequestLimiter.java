package qwenrerank.opensearch;

import java.util.ArrayDeque;
import java.util.Deque;

/** Limits concurrent requests; others wait in order, without a thread. */
final class RequestLimiter {

    private final Deque<Runnable> waiting = new ArrayDeque<>();
    private int running;
    private volatile int maxRunning;
    private volatile int maxWaiting;

    RequestLimiter(int maxRunning, int maxWaiting) {
        this.maxRunning = maxRunning;
        this.maxWaiting = maxWaiting;
    }

    void setMaxRunning(int maxRunning) {
        this.maxRunning = maxRunning;
        startWaiting();
    }

    void setMaxWaiting(int maxWaiting) {
        this.maxWaiting = maxWaiting;
    }

    /**
     * Starts a request now or when another one ends. A started request must call {@link #release}.
     *
     * @return false if too many wait
     */
    boolean submit(Runnable start) {
        synchronized (this) {
            if (running >= maxRunning) {
                return waiting.size() < maxWaiting && waiting.add(start);
            }
            running++;
        }
        start.run();
        return true;
    }

    /** Removes a request that has not started. */
    synchronized void remove(Runnable start) {
        waiting.remove(start);
    }

    /** Ends a started request. */
    void release() {
        synchronized (this) {
            running--;
        }
        startWaiting();
    }

    private void startWaiting() {
        for (Runnable next = next(); next != null; next = next()) {
            next.run();
        }
    }

    private synchronized Runnable next() {
        Runnable next = running < maxRunning ? waiting.poll() : null;
        running += next == null ? 0 : 1;
        return next;
    }

    synchronized int running() {
        return running;
    }

    synchronized int waiting() {
        return waiting.size();
    }
}
