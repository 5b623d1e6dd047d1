package qwenrerank.opensearch;

import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.opensearch.common.unit.TimeValue;

/** Reads typed options from a map and reports unknown ones. Every message names the option. */
final class OptionReader {

    private final Map<String, Object> left;

    OptionReader(Map<String, Object> options) {
        left = new HashMap<>(options);
    }

    String string(String name) {
        Object value = left.remove(name);
        if (value != null && (value instanceof String == false || ((String) value).isBlank())) {
            throw invalid(name, value, "a text");
        }
        return (String) value;
    }

    boolean flag(String name) {
        Object value = left.remove(name);
        if (value != null && value instanceof Boolean == false) {
            throw invalid(name, value, "true or false");
        }
        return value != null && (Boolean) value;
    }

    Double number(String name, double low, double high) {
        Object value = left.remove(name);
        if (value == null) {
            return null;
        }
        double number = value instanceof Number ? ((Number) value).doubleValue() : Double.NaN;
        if (number >= low && number <= high) {
            return number;
        }
        throw invalid(name, value, "a number from " + low + " to " + high);
    }

    int count(String name, int fallback, int high) {
        Object value = left.remove(name);
        if (value == null) {
            return fallback;
        }
        if (value instanceof Integer && (Integer) value >= 1 && (Integer) value <= high) {
            return (Integer) value;
        }
        throw invalid(name, value, "an integer from 1 to " + high);
    }

    TimeValue time(String name, TimeValue fallback) {
        String value = string(name);
        TimeValue time = value == null ? fallback : TimeValue.parseTimeValue(value, name);
        if (time.millis() < 1) {
            throw invalid(name, value, "a time such as 2s");
        }
        return time;
    }

    /** Returns a list of non-blank texts; a single text is a list of one. */
    List<String> strings(String name) {
        Object value = left.remove(name);
        if (value == null) {
            return List.of();
        }
        List<?> items = value instanceof List ? (List<?>) value : List.of(value);
        if (items.stream().allMatch(one -> one instanceof String && ((String) one).isBlank() == false)) {
            return items.stream().map(String.class::cast).collect(java.util.stream.Collectors.toUnmodifiableList());
        }
        throw invalid(name, value, "a list of texts");
    }

    /** Returns a reader of a nested object; null if there is none. */
    @SuppressWarnings("unchecked") // keys of parsed JSON are strings
    OptionReader object(String name) {
        Object value = left.remove(name);
        if (value != null && value instanceof Map == false) {
            throw invalid(name, value, "an object");
        }
        return value == null ? null : new OptionReader((Map<String, Object>) value);
    }

    /** Throws if an option was not read. */
    void end(String known) {
        if (left.isEmpty() == false) {
            throw new IllegalArgumentException("unknown option of qwen_rerank: " + left.keySet() + ". Known are " + known);
        }
    }

    static IllegalArgumentException invalid(String name, Object value, String expected) {
        return new IllegalArgumentException("invalid option of qwen_rerank: " + name + " is [" + value + "]. Use " + expected);
    }
}
