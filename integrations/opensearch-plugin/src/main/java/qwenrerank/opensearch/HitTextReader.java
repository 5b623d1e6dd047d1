package qwenrerank.opensearch;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

import org.opensearch.common.document.DocumentField;
import org.opensearch.common.xcontent.XContentHelper;
import org.opensearch.search.SearchHit;
import org.opensearch.search.SearchHits;

/**
 * Reads the texts of hits that are scored. A hit has one text, or one per inner hit if a field is
 * {@code inner_hits.<name>.<path>}.
 */
final class HitTextReader {

    private static final String SEPARATOR = "\n\n";
    private static final String INNER = "inner_hits.";

    private final List<String> fields;
    private final String innerName;

    /**
     * Creates a reader of fields.
     *
     * @throws IllegalArgumentException the fields name more than one kind of inner hits, or inner hits without a field
     */
    HitTextReader(List<String> fields) {
        this.fields = fields;
        Set<String> names = fields.stream().filter(HitTextReader::isInner).map(HitTextReader::innerName).collect(Collectors.toSet());
        if (names.size() > 1) {
            throw OptionReader.invalid("fields", fields, "one kind of inner hits");
        }
        innerName = names.stream().findFirst().orElse(null);
    }

    private static boolean isInner(String field) {
        return field.startsWith(INNER);
    }

    private static String innerName(String field) {
        int end = field.indexOf('.', INNER.length());
        if (end <= INNER.length() || end == field.length() - 1) {
            throw OptionReader.invalid("fields", field, "inner_hits.<name>.<path>");
        }
        return field.substring(INNER.length(), end);
    }

    /** Returns the fields. */
    List<String> fields() {
        return fields;
    }

    /** Returns those of the fields that are read from a hit's own source. */
    static List<String> sourceFields(List<String> fields) {
        return fields.stream().filter(field -> isInner(field) == false).collect(Collectors.toList());
    }

    /** Returns the texts of a hit that are not blank; an empty list if it has none of the fields. */
    List<HitText> read(SearchHit hit) {
        List<HitText> texts = new ArrayList<>();
        Map<String, Object> source = source(hit);
        if (innerName == null) {
            add(hit, source, null, texts);
            return texts;
        }
        SearchHits inner = hit.getInnerHits() == null ? null : hit.getInnerHits().get(innerName);
        if (inner != null) {
            inner.forEach(one -> add(hit, source, one, texts));
        }
        return texts;
    }

    /** Adds the text of a hit, or of one of its inner hits, if it has one. */
    private void add(SearchHit hit, Map<String, Object> source, SearchHit inner, List<HitText> texts) {
        Map<String, Object> innerSource = inner == null ? null : source(inner);
        Map<String, String> values = new LinkedHashMap<>();
        boolean hasOwn = false;
        for (String field : fields) {
            boolean own = inner == null || isInner(field);
            String value = isInner(field) ? innerText(inner, innerSource, field) : fieldText(hit, source, field);
            if (value.isEmpty() == false) {
                values.putIfAbsent(field, value);
                hasOwn |= own;
            }
        }
        if (hasOwn) {
            texts.add(join(values));
        }
    }

    private String innerText(SearchHit inner, Map<String, Object> source, String field) {
        String own = field.substring(INNER.length() + innerName.length() + 1);
        String text = "";
        if (inner.getNestedIdentity() != null) { // requested fields have the full path, the source does not
            text = fieldText(inner, source, inner.getNestedIdentity().getField().string() + "." + own);
        }
        return text.isEmpty() ? fieldText(inner, source, own) : text;
    }

    /** Returns a field's text; requested {@code fields} take precedence over the source. */
    private static String fieldText(SearchHit hit, Map<String, Object> source, String field) {
        DocumentField requested = hit.field(field);
        return Surrogates.repair(requested == null ? DottedPaths.text(source, field) : DottedPaths.text(requested.getValues(), ""));
    }

    private static Map<String, Object> source(SearchHit hit) {
        return hit.hasSource() ? XContentHelper.convertToMap(hit.getSourceRef(), false).v2() : Map.of();
    }

    private static HitText join(Map<String, String> values) {
        StringBuilder text = new StringBuilder();
        List<HitText.Part> parts = new ArrayList<>();
        values.forEach((field, value) -> {
            text.append(text.length() == 0 ? "" : SEPARATOR);
            parts.add(new HitText.Part(field, text.length(), text.length() + value.length()));
            text.append(value);
        });
        return new HitText(text.toString(), parts);
    }
}
