package qwenrerank.opensearch;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.opensearch.common.xcontent.XContentHelper;
import org.opensearch.common.xcontent.json.JsonXContent;
import org.opensearch.index.query.QueryBuilder;
import org.opensearch.index.query.QueryBuilders;

class QueryTextTests {

    @Test
    void readsTheBuildersOfTheCore() {
        QueryBuilder[] queries = {
            QueryBuilders.matchQuery("text", "blue whale"),
            QueryBuilders.matchPhraseQuery("text", "blue whale"),
            QueryBuilders.multiMatchQuery("blue whale", "title", "text"),
            QueryBuilders.queryStringQuery("blue whale"),
            QueryBuilders.simpleQueryStringQuery("blue whale"),
            QueryBuilders.disMaxQuery().add(QueryBuilders.matchQuery("text", "blue whale")),
            QueryBuilders.constantScoreQuery(QueryBuilders.matchQuery("text", "blue whale")),
            QueryBuilders.functionScoreQuery(QueryBuilders.matchQuery("text", "blue whale")),
            QueryBuilders.boolQuery()
                .filter(QueryBuilders.matchQuery("tag", "a filter"))
                .should(QueryBuilders.matchQuery("text", "a wish"))
                .must(QueryBuilders.termQuery("tag", "animal"))
                .must(QueryBuilders.boolQuery().should(QueryBuilders.matchQuery("text", "blue whale"))), };
        for (QueryBuilder query : queries) {
            assertEquals("blue whale", QueryText.find(query), query.getName());
        }
    }

    @Test
    void findsNoTextWhereThereIsNone() {
        assertEquals(null, QueryText.find((QueryBuilder) null));
        assertEquals(null, QueryText.find(QueryBuilders.matchAllQuery()));
        assertEquals(null, QueryText.find(QueryBuilders.termQuery("text", "whale")));
        assertEquals(null, QueryText.find(QueryBuilders.boolQuery().mustNot(QueryBuilders.matchQuery("text", "fish"))));
    }

    @ParameterizedTest
    @ValueSource(
        strings = {
            "{\"hybrid\": {\"queries\": [{\"knn\": {\"e\": {\"vector\": [1], \"k\": 3}}}, {\"neural\": {\"e\": {\"query_text\": \"blue whale\", \"k\": 3}}}]}}",
            "{\"neural_sparse\": {\"e\": {\"query_text\": \"blue whale\"}}}",
            "{\"nested\": {\"path\": \"a\", \"query\": {\"match\": {\"a.b\": \"blue whale\"}}}}",
            "{\"script_score\": {\"query\": {\"match\": {\"b\": {\"query\": \"blue whale\"}}}, \"script\": {\"source\": \"1\"}}}" }
    )
    void readsTheQueriesOfPlugins(String json) {
        assertEquals("blue whale", QueryText.find((Object) XContentHelper.convertToMap(JsonXContent.jsonXContent, json, true)));
    }
}
