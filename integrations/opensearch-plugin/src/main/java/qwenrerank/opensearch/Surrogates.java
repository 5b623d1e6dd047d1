package qwenrerank.opensearch;

/** Lone surrogates, which JSON escapes can contain and UTF-8 cannot. */
final class Surrogates {

    private Surrogates() {}

    /** Returns the text with U+FFFD in place of every lone surrogate. */
    static String repair(String text) {
        if (text.codePoints().noneMatch(Surrogates::isLone)) {
            return text;
        }
        int[] points = text.codePoints().map(point -> isLone(point) ? 0xFFFD : point).toArray();
        return new String(points, 0, points.length);
    }

    private static boolean isLone(int point) {
        return point >= Character.MIN_SURROGATE && point <= Character.MAX_SURROGATE;
    }
}
