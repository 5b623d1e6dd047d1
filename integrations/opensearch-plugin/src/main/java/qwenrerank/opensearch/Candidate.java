package qwenrerank.opensearch;

import java.util.List;

import org.opensearch.search.SearchHit;

/** A hit of the window: its rank and score in the first stage, its texts, and what the model says about its best text. */
final class Candidate {

    final SearchHit hit;
    /** Rank in the first stage, from 1. */
    final int rank;
    final float firstScore;
    /** The scored texts; empty for a hit without text, which stays behind the others. */
    final List<HitText> texts;
    /** The model's score of the best text; NaN without one. */
    double relevance = Double.NaN;
    /** The best text, and the span of its best passage. */
    HitText best;
    int[] span;
    /** The hit's new score; NaN without one. */
    double score = Double.NaN;

    Candidate(SearchHit hit, int rank, List<HitText> texts) {
        this.hit = hit;
        this.rank = rank;
        this.firstScore = hit.getScore();
        this.texts = texts;
    }

    /** Takes a text's score if it is the best so far. */
    void offer(HitText text, double textScore, int[] textSpan) {
        if (best == null || textScore > relevance) {
            relevance = textScore;
            best = text;
            span = textSpan;
        }
        score = relevance;
    }
}
