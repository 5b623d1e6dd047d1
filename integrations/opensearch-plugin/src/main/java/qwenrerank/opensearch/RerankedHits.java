package qwenrerank.opensearch;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

import org.opensearch.common.document.DocumentField;
import org.opensearch.core.common.text.Text;
import org.opensearch.search.SearchHit;
import org.opensearch.search.fetch.subphase.highlight.HighlightField;

/** Orders hits by the model's scores, and writes the scores into the hits when the order is complete. */
final class RerankedHits {

    private final RerankOptions options;
    private final List<Candidate> candidates = new ArrayList<>();

    /** Reads the texts of the first hits, which are reranked; the others keep their order behind them. */
    RerankedHits(RerankOptions options, SearchHit[] hits, int firstRank, int numRanked) {
        this.options = options;
        for (int i = 0; i < hits.length; i++) {
            candidates.add(new Candidate(hits[i], firstRank + i, i < numRanked ? options.reader.read(hits[i]) : List.of()));
        }
    }

    /** Returns all texts to score, hit by hit. */
    List<String> texts() {
        return candidates.stream().flatMap(one -> one.texts.stream()).map(text -> text.text).collect(Collectors.toList());
    }

    /** Returns all hits in their new order, without those below the threshold. The hits are not changed. */
    List<Candidate> order(RerankAnswer answer) {
        int next = 0;
        for (Candidate one : candidates) {
            for (HitText text : one.texts) {
                one.offer(text, answer.scores[next], answer.spans[next]);
                next++;
            }
        }
        Comparator<Candidate> bestFirst = Comparator.comparingDouble(one -> -one.score);
        List<Candidate> order = candidates.stream().filter(this::isScored).sorted(bestFirst).collect(Collectors.toList());
        if (options.fusion != null) {
            fuse(order);
            order.sort(Comparator.comparingInt(one -> one.rank));
            order.sort(bestFirst);
        }
        order.addAll(options.minScore == null ? unscored() : List.of());
        return order;
    }

    /** Returns the hits of a page behind the window in their order; none if there is a threshold, which they cannot pass. */
    List<Candidate> unscored() {
        return options.minScore == null ? candidates.stream().filter(one -> one.best == null).collect(Collectors.toList()) : List.of();
    }

    private boolean isScored(Candidate one) {
        return one.best != null && (options.minScore == null || one.relevance >= options.minScore);
    }

    /** Replaces the scores by fused ones; the list is in the model's order. */
    private void fuse(List<Candidate> order) {
        int[] modelRanks = new int[order.size()];
        java.util.Arrays.setAll(modelRanks, one -> one + 1);
        double[] fused = options.fusion.fuse(
            order.stream().mapToDouble(one -> Float.isNaN(one.firstScore) ? 0 : one.firstScore).toArray(),
            order.stream().mapToInt(one -> one.rank).toArray(),
            order.stream().mapToDouble(one -> one.relevance).toArray(),
            modelRanks
        );
        for (int i = 0; i < fused.length; i++) {
            order.get(i).score = fused[i];
        }
    }

    /** Writes the scores, the first stage's scores and the highlights into the hits, and returns them. */
    SearchHit[] write(List<Candidate> order) {
        order.forEach(this::write);
        return order.stream().map(one -> one.hit).toArray(SearchHit[]::new);
    }

    private void write(Candidate one) {
        one.hit.score((float) one.score);
        if (options.keepFirstScore != null && Float.isNaN(one.firstScore) == false) {
            one.hit.setDocumentField(
                options.keepFirstScore,
                new DocumentField(options.keepFirstScore, Collections.singletonList(one.firstScore))
            );
        }
        HitText.Passage passage = options.highlight ? passage(one) : null;
        if (passage != null) {
            Map<String, HighlightField> highlights = new HashMap<>(one.hit.getHighlightFields());
            highlights.put(passage.field, new HighlightField(passage.field, new Text[] { new Text(passage.text) }));
            one.hit.highlightFields(highlights);
        }
    }

    /** Returns the passage that the service found, or the best of several inner hits; null for a text that was read as a whole. */
    private static HitText.Passage passage(Candidate one) {
        return one.best == null || (one.span == null && one.texts.size() == 1) ? null : one.best.passage(one.span);
    }
}
