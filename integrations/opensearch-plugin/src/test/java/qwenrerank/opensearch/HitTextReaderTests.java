package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

import org.apache.lucene.search.TotalHits;
import org.junit.jupiter.api.Test;
import org.opensearch.search.SearchHit;
import org.opensearch.search.SearchHits;

class HitTextReaderTests {

    private static List<String> read(SearchHit hit, String... fields) {
        return new HitTextReader(List.of(fields)).read(hit).stream().map(text -> text.text).collect(Collectors.toList());
    }

    @Test
    void joinsFieldsByABlankLineAndLeavesOutMissingOnes() {
        SearchHit hit = Hits.hit("{\"title\": \"Kettle\", \"body\": \"Vinegar helps.\", \"empty\": \" \"}");
        assertEquals(List.of("Kettle\n\nVinegar helps."), read(hit, "title", "empty", "missing", "body"));
        assertEquals(List.of(), read(hit, "empty", "missing"));
        assertEquals(List.of(), read(Hits.hit(null), "title"));
    }

    @Test
    void readsListsObjectsAndKeysWithDots() {
        SearchHit hit = Hits.hit("{\"a\": [{\"b\": \"one\"}, {\"b\": [\"two\", 3, true, null]}], \"c.d\": \"four\", \"e\": {\"f.g\": {\"h\": \"five\"}}}");
        assertEquals(List.of("one\ntwo\n3\ntrue"), read(hit, "a.b"));
        assertEquals(List.of("four"), read(hit, "c.d"));
        assertEquals(List.of("five"), read(hit, "e"));
        assertEquals(List.of("five"), read(hit, "e.f.g.h"));
    }

    @Test
    void prefersRequestedFieldsToTheSource() {
        assertEquals(List.of("new\nnewer"), read(Hits.withField(Hits.hit("{\"text\": \"old\"}"), "text", "new", "newer"), "text"));
    }

    @Test
    void readsOneTextForEachInnerHit() {
        SearchHit first = Hits.hit("{\"text\": \"one\"}");
        SearchHit blank = Hits.hit("{\"other\": \"two\"}");
        SearchHit hit = Hits.hit("{\"title\": \"Whales\"}");
        hit.setInnerHits(Map.of("parts", new SearchHits(new SearchHit[] { first, blank, first }, new TotalHits(3, TotalHits.Relation.EQUAL_TO), 1)));
        assertEquals(List.of("Whales\n\none", "Whales\n\none"), read(hit, "title", "inner_hits.parts.text"));
        assertEquals(List.of(), read(hit, "inner_hits.others.text"));
    }

    @Test
    void readsTheNestedPathOfAnInnerHitsFields() {
        SearchHit.NestedIdentity nested = new SearchHit.NestedIdentity("comments", 0, null);
        SearchHit inner = Hits.withField(new SearchHit(1, "1", nested, new java.util.HashMap<>(), new java.util.HashMap<>()), "comments.text", "said");
        SearchHit hit = Hits.hit("{}");
        hit.setInnerHits(Map.of("c", new SearchHits(new SearchHit[] { inner }, null, 1)));
        assertEquals(List.of("said"), read(hit, "inner_hits.c.text"));
    }

    @Test
    void replacesLoneSurrogates() {
        assertEquals(List.of("a\uFFFDb\uD83D\uDEA2"), read(Hits.hit("{\"text\": \"a\\ud800b\\ud83d\\udea2\"}"), "text"));
    }

    @Test
    void findsTheFieldOfAPassageInCodePoints() {
        HitText text = new HitTextReader(List.of("title", "body")).read(Hits.hit("{\"title\": \"\uD83D\uDEA2 ship\", \"body\": \"A whale sings.\"}")).get(0);
        HitText.Passage passage = text.passage(new int[] { 10, 15 });
        assertEquals("body", passage.field);
        assertEquals("whale", passage.text);
        assertEquals("ship", text.passage(new int[] { 2, 7 }).text);
        assertNull(text.passage(new int[] { 6, 8 }), "only the separator");
        assertEquals("A whale sings.", text.passage(new int[] { 5, 999 }).text);
    }
}
