package qwenrerank.opensearch;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

import org.opensearch.common.document.DocumentField;
import org.opensearch.core.common.bytes.BytesArray;
import org.opensearch.search.SearchHit;

/** Hits and options for tests. */
final class Hits {

    private Hits() {}

    static SearchHit hit(int id, float score, String source) {
        SearchHit hit = new SearchHit(id, Integer.toString(id), new HashMap<>(), new HashMap<>());
        hit.score(score);
        return source == null ? hit : hit.sourceRef(new BytesArray(source));
    }

    static SearchHit hit(String source) {
        return hit(0, 1, source);
    }

    static SearchHit withField(SearchHit hit, String name, Object... values) {
        hit.setDocumentField(name, new DocumentField(name, List.of(values)));
        return hit;
    }

    static List<String> ids(SearchHit[] hits) {
        return Arrays.stream(hits).map(SearchHit::getId).collect(Collectors.toList());
    }

    static RerankOptions options(Object... more) {
        Map<String, Object> options = new HashMap<>(Map.of("endpoint", "http://localhost", "fields", "text"));
        for (int i = 0; i < more.length; i += 2) {
            options.put((String) more[i], more[i + 1]);
        }
        return new RerankOptions(options);
    }

    static RerankAnswer answer(double... scores) {
        StringBuilder results = new StringBuilder();
        for (int i = 0; i < scores.length; i++) {
            results.append(i == 0 ? "" : ",").append("{\"index\":").append(i).append(",\"relevance_score\":").append(scores[i]).append("}");
        }
        return RerankAnswer.parse(("{\"model\":\"m\",\"results\":[" + results + "]}").getBytes(java.nio.charset.StandardCharsets.UTF_8), scores.length);
    }
}
