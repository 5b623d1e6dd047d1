package qwenrerank.opensearch;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** Reads dotted paths in parsed JSON. */
final class DottedPaths {

    private DottedPaths() {}

    /**
     * Returns the text at a path, one line per value; empty if there is none. The path passes through lists, a key may contain dots,
     * and an object has the values of all its keys.
     */
    static String text(Object node, String path) {
        List<String> values = new ArrayList<>();
        collect(node, path, values);
        return values.stream().filter(value -> value.isBlank() == false).collect(Collectors.joining("\n"));
    }

    private static void collect(Object node, String path, List<String> values) {
        if (node instanceof List) {
            ((List<?>) node).forEach(item -> collect(item, path, values));
        } else if (node instanceof Map) {
            collectChildren((Map<?, ?>) node, path, values);
        } else if (path.isEmpty() && node != null) {
            values.add(node.toString());
        }
    }

    private static void collectChildren(Map<?, ?> node, String path, List<String> values) {
        if (path.isEmpty()) {
            node.values().forEach(child -> collect(child, path, values));
            return;
        }
        int end = path.indexOf('.');
        for (; end != -1; end = path.indexOf('.', end + 1)) {
            collect(node.get(path.substring(0, end)), path.substring(end + 1), values);
        }
        collect(node.get(path), "", values);
    }
}
