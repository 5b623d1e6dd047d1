package qwenrerank.opensearch;

import java.util.List;

/** A scored text of a hit and the places of its fields. */
final class HitText {

    final String text;
    private final List<Part> parts;

    HitText(String text, List<Part> parts) {
        this.text = text;
        this.parts = parts;
    }

    /** A field's text in a scored text, as offsets in UTF-16 units. */
    static final class Part {
        final String field;
        final int start;
        final int end;

        Part(String field, int start, int end) {
            this.field = field;
            this.start = start;
            this.end = end;
        }

        private int overlap(int from, int to) {
            return Math.min(end, to) - Math.max(start, from);
        }
    }

    /**
     * Returns the field that has the largest share of a passage, and that share.
     *
     * @param span start and end of the passage in code points; null for the whole text
     */
    Passage passage(int[] span) {
        int points = text.codePointCount(0, text.length());
        int from = span == null ? 0 : text.offsetByCodePoints(0, Math.min(span[0], points));
        int to = span == null ? text.length() : text.offsetByCodePoints(0, Math.min(span[1], points));
        Part best = parts.get(0);
        for (Part part : parts) {
            best = part.overlap(from, to) > best.overlap(from, to) ? part : best;
        }
        if (best.overlap(from, to) <= 0) {
            return null;
        }
        return new Passage(best.field, text.substring(Math.max(best.start, from), Math.min(best.end, to)));
    }

    /** A part of a field's text. */
    static final class Passage {
        final String field;
        final String text;

        Passage(String field, String text) {
            this.field = field;
            this.text = text;
        }
    }
}
