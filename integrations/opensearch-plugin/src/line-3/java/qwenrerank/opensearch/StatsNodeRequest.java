package qwenrerank.opensearch;

import java.io.IOException;

import org.opensearch.transport.TransportRequest;
import org.opensearch.core.common.io.stream.StreamInput;

/** The request for one node's statistics. */
final class StatsNodeRequest extends TransportRequest {

    StatsNodeRequest() {}

    StatsNodeRequest(StreamInput in) throws IOException {
        super(in);
    }
}
