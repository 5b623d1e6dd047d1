package qwenrerank.opensearch;

import java.io.IOException;

import org.opensearch.action.support.nodes.BaseNodeRequest;
import org.opensearch.core.common.io.stream.StreamInput;

/** The request for one node's statistics. */
final class StatsNodeRequest extends BaseNodeRequest {

    StatsNodeRequest() {}

    StatsNodeRequest(StreamInput in) throws IOException {
        super(in);
    }
}
