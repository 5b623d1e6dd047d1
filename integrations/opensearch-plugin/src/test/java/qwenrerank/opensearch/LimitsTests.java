package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

import org.junit.jupiter.api.Test;

class LimitsTests {

    private final AtomicLong now = new AtomicLong(Long.MAX_VALUE - 5); // the clock may overflow
    private final CircuitBreaker breaker = new CircuitBreaker(now::get);

    private void fail() {
        assertTrue(breaker.allow());
        breaker.failure(2, 10);
    }

    @Test
    void theBreakerOpensAfterConsecutiveFailures() {
        fail();
        breaker.success();
        fail();
        assertEquals("closed", breaker.state());
        fail();
        assertEquals("open", breaker.state());
        assertFalse(breaker.allow());
    }

    @Test
    void oneRequestTriesAFailedService() {
        fail();
        fail();
        now.addAndGet(10);
        assertEquals("half_open", breaker.state());
        assertTrue(breaker.allow());
        assertFalse(breaker.allow());
        breaker.failure(2, 10);
        assertFalse(breaker.allow());
        now.addAndGet(10);
        assertTrue(breaker.allow());
        breaker.cancelled();
        assertTrue(breaker.allow());
        breaker.success();
        assertEquals("closed", breaker.state());
        fail();
        assertTrue(breaker.allow());
    }

    @Test
    void theLimiterStartsRequestsInTheirOrder() {
        RequestLimiter limiter = new RequestLimiter(2, 2);
        List<Integer> started = new ArrayList<>();
        List<Boolean> accepted = new ArrayList<>();
        for (int i = 0; i < 5; i++) {
            int number = i;
            accepted.add(limiter.submit(() -> started.add(number)));
        }
        assertEquals(List.of(true, true, true, true, false), accepted);
        assertEquals(List.of(0, 1), started);
        assertEquals(2, limiter.waiting());
        limiter.release();
        assertEquals(List.of(0, 1, 2), started);
        limiter.setMaxRunning(3);
        assertEquals(List.of(0, 1, 2, 3), started);
        limiter.release();
        limiter.release();
        limiter.release();
        assertEquals(0, limiter.running());
    }

    @Test
    void aRequestThatWaitsCanBeRemoved() {
        RequestLimiter limiter = new RequestLimiter(1, 5);
        List<String> started = new ArrayList<>();
        Runnable impatient = () -> started.add("impatient");
        limiter.submit(() -> started.add("first"));
        limiter.submit(impatient);
        limiter.submit(() -> started.add("last"));
        limiter.remove(impatient);
        limiter.release();
        assertEquals(List.of("first", "last"), started);
    }
}
