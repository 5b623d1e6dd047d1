package qwenrerank.opensearch;

import java.net.URI;
import java.net.URISyntaxException;
import java.util.List;
import java.util.Locale;

/** The base address of a rerank service, such as {@code http://reranker:8501}. */
final class Endpoint {

    private final String origin;
    private final String path;

    private Endpoint(String origin, String path) {
        this.origin = origin;
        this.path = path;
    }

    /**
     * Parses an address.
     *
     * @throws IllegalArgumentException it is not a plain http or https address: it has a user, a query, a fragment, an escape, or a
     *     relative segment, any of which could lead past a prefix of allowed addresses
     */
    static Endpoint parse(String text) {
        URI uri;
        try {
            uri = new URI(text.trim());
        } catch (URISyntaxException error) {
            throw invalid(text);
        }
        String scheme = uri.getScheme() == null ? "" : uri.getScheme().toLowerCase(Locale.ROOT);
        boolean isPlain = uri.getHost() != null && uri.getRawUserInfo() == null && uri.getRawQuery() == null && uri.getRawFragment() == null;
        if (isPlain == false || List.of("http", "https").contains(scheme) == false) {
            throw invalid(text);
        }
        String path = uri.getRawPath().replaceAll("/+$", "");
        if (path.contains("%") || path.contains("//") || (path + "/").contains("/../") || (path + "/").contains("/./")) {
            throw invalid(text);
        }
        int port = uri.getPort() == -1 ? (scheme.equals("http") ? 80 : 443) : uri.getPort();
        return new Endpoint(scheme + "://" + uri.getHost().toLowerCase(Locale.ROOT) + ":" + port, path);
    }

    /** Returns scheme, host and port. */
    String origin() {
        return origin;
    }

    /** Returns the address that reranks. */
    URI rerankUri() {
        return URI.create(this + "/v1/rerank");
    }

    /** Returns whether this address is the prefix or below it; a host or a path segment only matches as a whole. */
    boolean isBelow(Endpoint prefix) {
        return origin.equals(prefix.origin) && (path + "/").startsWith(prefix.path + "/");
    }

    @Override
    public String toString() {
        return origin + path;
    }

    private static IllegalArgumentException invalid(String text) {
        return new IllegalArgumentException("invalid address: [" + text + "]. Use a base address such as http://reranker:8501");
    }
}
