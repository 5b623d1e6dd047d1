package qwenrerank.opensearch;

import java.util.List;

import org.opensearch.common.settings.SecureSetting;
import org.opensearch.common.settings.Setting;
import org.opensearch.common.settings.Setting.Property;
import org.opensearch.common.unit.TimeValue;
import org.opensearch.core.common.settings.SecureString;

/** Settings of a node. All but the key can be changed in a running cluster. */
final class NodeSettings {

    /** Prefixes of the addresses that may be called. The default allows none. */
    static final Setting<List<String>> ALLOWED_ENDPOINTS = Setting.listSetting(
        "qwen_rerank.allowed_endpoints",
        List.of(),
        prefix -> Endpoint.parse(prefix).toString(),
        Property.NodeScope,
        Property.Dynamic
    );

    /** Key of the rerank service, in the node's keystore. */
    static final Setting<SecureString> API_KEY = SecureSetting.secureString("qwen_rerank.api_key", null);

    /** Maximum number of concurrent requests of a node to rerank services. */
    static final Setting<Integer> MAX_CONCURRENT_REQUESTS = Setting.intSetting(
        "qwen_rerank.max_concurrent_requests",
        32,
        1,
        Property.NodeScope,
        Property.Dynamic
    );

    /** Maximum number of searches of a node that wait for a request. */
    static final Setting<Integer> MAX_QUEUED_REQUESTS = Setting.intSetting(
        "qwen_rerank.max_queued_requests",
        1000,
        0,
        Property.NodeScope,
        Property.Dynamic
    );

    /** Number of consecutive failures of a service after which it is not called for a while. */
    static final Setting<Integer> BREAKER_FAILURES = Setting.intSetting(
        "qwen_rerank.circuit_breaker.failures",
        5,
        1,
        Property.NodeScope,
        Property.Dynamic
    );

    /** How long a failing service is not called. */
    static final Setting<TimeValue> BREAKER_PAUSE = Setting.positiveTimeSetting(
        "qwen_rerank.circuit_breaker.pause",
        TimeValue.timeValueSeconds(5),
        Property.NodeScope,
        Property.Dynamic
    );

    static final List<Setting<?>> ALL = List.of(
        ALLOWED_ENDPOINTS,
        API_KEY,
        MAX_CONCURRENT_REQUESTS,
        MAX_QUEUED_REQUESTS,
        BREAKER_FAILURES,
        BREAKER_PAUSE
    );

    private NodeSettings() {}
}
