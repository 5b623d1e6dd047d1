package qwenrerank.opensearch;

import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

import org.opensearch.common.xcontent.json.JsonXContent;
import org.opensearch.core.xcontent.DeprecationHandler;
import org.opensearch.core.xcontent.NamedXContentRegistry;
import org.opensearch.core.xcontent.XContentParser;

/** The checked answer of a rerank service: one score per document. */
final class RerankAnswer {

    /** Probability of relevance of each document. */
    final double[] scores;
    /** Start and end of each document's best passage in code points; null for a document that was read as a whole. */
    final int[][] spans;
    /** Name of the model, or null. */
    final String model;

    private RerankAnswer(int numDocuments, String model) {
        scores = new double[numDocuments];
        spans = new int[numDocuments][];
        this.model = model;
    }

    /**
     * Parses an answer with the list {@code results} of objects with {@code index}, {@code relevance_score} and optionally
     * {@code span}.
     *
     * @throws RerankException the answer is not JSON, or does not have exactly one finite score for each document
     */
    static RerankAnswer parse(byte[] body, int numDocuments) {
        try {
            return parse(map(body), numDocuments);
        } catch (RerankException error) {
            throw error;
        } catch (IOException | RuntimeException error) { // a parser and its casts fail in many ways
            throw invalid("it is not an answer of /v1/rerank", error);
        }
    }

    static Map<String, Object> map(byte[] body) throws IOException {
        try (
            XContentParser parser = JsonXContent.jsonXContent.createParser(
                NamedXContentRegistry.EMPTY,
                DeprecationHandler.THROW_UNSUPPORTED_OPERATION,
                body
            )
        ) {
            return parser.map();
        }
    }

    private static RerankAnswer parse(Map<String, Object> answer, int numDocuments) {
        List<?> results = (List<?>) answer.get("results");
        if (results.size() != numDocuments) {
            throw invalid("it has " + results.size() + " results for " + numDocuments + " documents", null);
        }
        RerankAnswer parsed = new RerankAnswer(numDocuments, answer.get("model") instanceof String ? (String) answer.get("model") : null);
        Arrays.fill(parsed.scores, Double.NaN);
        for (Object one : results) {
            parsed.add((Map<?, ?>) one);
        }
        return parsed;
    }

    private void add(Map<?, ?> result) {
        int index = ((Number) result.get("index")).intValue();
        double score = ((Number) result.get("relevance_score")).doubleValue();
        if (index < 0 || index >= scores.length || Double.isNaN(scores[index]) == false) {
            throw invalid("its index " + index + " is out of range or repeated", null);
        }
        if (Double.isFinite(score) == false) {
            throw invalid("its score of document " + index + " is not a finite number", null);
        }
        scores[index] = score;
        if (result.get("span") instanceof List) {
            spans[index] = ((List<?>) result.get("span")).stream().mapToInt(place -> ((Number) place).intValue()).toArray();
            if (spans[index].length != 2 || spans[index][0] < 0 || spans[index][0] > spans[index][1]) {
                throw invalid("its span of document " + index + " is not a start and an end", null);
            }
        }
    }

    private static RerankException invalid(String detail, Throwable cause) {
        return new RerankException(RerankException.Kind.INVALID_ANSWER, "the rerank service sent an invalid answer: " + detail, cause);
    }
}
