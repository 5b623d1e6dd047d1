package qwenrerank.opensearch;

import java.util.Arrays;

/** Combines the first stage's and the model's score of each hit. */
interface Fusion {

    /** Returns one score per hit; all arrays are in the same order, and ranks start at 1. */
    double[] fuse(double[] firstScores, int[] firstRanks, double[] modelScores, int[] modelRanks);

    /** Parses the option {@code fusion}; null if there is none. */
    static Fusion parse(OptionReader options) {
        if (options == null) {
            return null;
        }
        String method = options.string("method");
        Fusion fusion;
        if ("rrf".equals(method)) {
            fusion = reciprocalRanks(options.count("k", 60, Integer.MAX_VALUE));
        } else if ("linear".equals(method)) {
            Double weight = options.number("weight", 0, 1);
            fusion = weightedMean(weight == null ? 0.5 : weight);
        } else {
            throw OptionReader.invalid("fusion.method", method, "rrf or linear");
        }
        options.end("fusion.method, fusion.k (rrf), fusion.weight (linear)");
        return fusion;
    }

    /** Reciprocal rank fusion: the sum of 1 / (k + rank) over both orders (Cormack, Clarke and Büttcher, SIGIR 2009). */
    static Fusion reciprocalRanks(int k) {
        return (firstScores, firstRanks, modelScores, modelRanks) -> {
            double[] fused = new double[firstRanks.length];
            Arrays.setAll(fused, one -> 1.0 / ((double) k + firstRanks[one]) + 1.0 / ((double) k + modelRanks[one]));
            return fused;
        };
    }

    /** The weighted mean of both scores after min-max normalization; weight 1 ignores the first stage. */
    static Fusion weightedMean(double weight) {
        return (firstScores, firstRanks, modelScores, modelRanks) -> {
            double[] first = normalize(firstScores);
            double[] model = normalize(modelScores);
            double[] fused = new double[first.length];
            Arrays.setAll(fused, one -> (1 - weight) * first[one] + weight * model[one]);
            return fused;
        };
    }

    /** Scales scores to 0…1; equal scores become 1. */
    private static double[] normalize(double[] scores) {
        double low = Arrays.stream(scores).min().orElse(0);
        double high = Arrays.stream(scores).max().orElse(0);
        return Arrays.stream(scores).map(score -> low == high ? 1 : (score - low) / (high - low)).toArray();
    }
}
