package qwenrerank.opensearch;

import org.opensearch.OpenSearchStatusException;
import org.opensearch.core.rest.RestStatus;

/** Why a search was not reranked. */
final class RerankException extends OpenSearchStatusException {

    /** Kinds of failures, each with the status of a search that fails with it. */
    enum Kind {
        NO_QUERY(RestStatus.BAD_REQUEST),
        NOT_ALLOWED(RestStatus.FORBIDDEN),
        BUSY(RestStatus.TOO_MANY_REQUESTS),
        CIRCUIT_OPEN(RestStatus.SERVICE_UNAVAILABLE),
        TIMEOUT(RestStatus.GATEWAY_TIMEOUT),
        UNREACHABLE(RestStatus.BAD_GATEWAY),
        REJECTED(RestStatus.BAD_GATEWAY),
        INVALID_ANSWER(RestStatus.BAD_GATEWAY),
        INTERNAL(RestStatus.INTERNAL_SERVER_ERROR);

        private final RestStatus status;

        Kind(RestStatus status) {
            this.status = status;
        }
    }

    private final transient Kind kind;

    RerankException(Kind kind, String message) {
        this(kind, message, null);
    }

    RerankException(Kind kind, String message, Throwable cause) {
        super(message, kind.status, cause);
        this.kind = kind;
    }

    Kind kind() {
        return kind;
    }

    /** Returns the error as one of this class. */
    static RerankException of(Throwable error) {
        return error instanceof RerankException ? (RerankException) error : new RerankException(Kind.INTERNAL, "reranking failed: " + error, error);
    }
}
