from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from scripts.train_demo import distributed
from scripts.train_demo.checkpoint import LOG_ODDS_SCALE, export
from scripts.train_demo.corpus import Corpus, Place
from scripts.train_demo.curriculum import Curriculum
from scripts.train_demo.forward import log_odds, packed_hidden_states
from scripts.train_demo.lists import ListMaker
from scripts.train_demo.network import build_model
from scripts.train_demo.packing import QueryList, pack
from scripts.train_demo.queries import add_noise_words, chinese_query, english_query
from scripts.train_demo.sources import Document, split_sentences
from scripts.train_demo.synthetic import mixed_list
from scripts.train_demo.tokenizer import recipe_record, train_tokenizer
from scripts.train_demo.trainer import Batch, Lesson, Settings, Trainer, mean_reciprocal_rank
from tests.demo.small_lists import CHINESE, ENGLISH

TOLERANCE = 2e-5
VOCABULARY_SIZE = 900
TRUE_ID, FALSE_ID = 300, 301


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return Qwen3ForCausalLM(config)


def easy_batch(rng: random.Random) -> Batch:
    """Lists whose right document repeats the query; the others contain none of its words."""
    lists = []
    for _ in range(12):
        query = rng.choices(range(400, VOCABULARY_SIZE), k=3)
        wrong = [rng.choices(range(400, VOCABULARY_SIZE), k=6) for _ in range(3)]
        lists.append(QueryList([5, *query, 6], [query + query, *wrong], frozenset(query)))
    return Batch([1, 2], lists, [3])


def trainer(model: Qwen3ForCausalLM, minutes: float = 60.0) -> Trainer:
    settings = Settings(seed=3, minutes=minutes, learning_rate=5e-3, warmup_steps=5)
    return Trainer(model, [Lesson("easy", easy_batch)], TRUE_ID, FALSE_ID, settings)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Sixty short documents from the sample's passages, with their questions as titles."""
    found = []
    for language, lists in (("en", ENGLISH), ("zh", CHINESE)):
        for question, passages in lists:
            for shift in range(3):
                chosen = passages[shift:] + passages[:shift]
                sentences = split_sentences(" ".join(chosen), language)
                found.append(Document(language, question, sentences))
    return found


@pytest.fixture(scope="module")
def tokenizer(documents: list[Document]) -> Tokenizer:
    texts = [text for document in documents for text in (document.title, *document.sentences)]
    return train_tokenizer(texts, vocabulary_size=4700)


@pytest.fixture(scope="module")
def corpus(documents: list[Document], tokenizer: Tokenizer) -> Corpus:
    return Corpus(documents, tokenizer)


def test_the_packed_forward_is_the_plain_computation() -> None:
    """Prefix, queries and documents of unequal lengths, computed once, give transformers' own log-odds."""
    model, rng = tiny_model(), random.Random(0)
    lists = [
        QueryList(
            rng.choices(range(300, 900), k=rng.randint(1, 7)),
            [rng.choices(range(300, 900), k=rng.randint(0, 9)) for _ in range(4)],
            frozenset(),
        )
        for _ in range(3)
    ]
    batch = pack([1, 2, 3], lists, [7, 8])
    packed = log_odds(model, packed_hidden_states(model, batch)[1], batch, TRUE_ID, FALSE_ID)
    plain = []
    for query in lists:
        for document in query.documents:
            logits = model(torch.tensor([[1, 2, 3, *query.head, *document, 7, 8]])).logits[0, -1]
            plain.append(logits[TRUE_ID] - logits[FALSE_ID])
    torch.testing.assert_close(packed, torch.stack(plain), atol=TOLERANCE, rtol=0)


def test_the_packed_forward_has_the_plain_gradient() -> None:
    model = tiny_model()
    lists = [
        QueryList([400, 401], [[402], [403, 404, 405]], frozenset()),
        QueryList([406], [[], [407]], frozenset()),
    ]
    batch = pack([1, 2], lists, [7])
    final = packed_hidden_states(model, batch)[1]
    torch.autograd.backward(log_odds(model, final, batch, TRUE_ID, FALSE_ID).square().sum())
    packed = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    model.zero_grad()
    for query in lists:
        for document in query.documents:
            logits = model(torch.tensor([[1, 2, *query.head, *document, 7]])).logits[0, -1]
            (logits[TRUE_ID] - logits[FALSE_ID]).square().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(packed[name], weight.grad, atol=1e-3, rtol=1e-3)


def test_the_packed_forward_returns_the_middle_layer_for_the_auxiliary_loss() -> None:
    model = tiny_model()
    batch = pack([1], [QueryList([400], [[401, 402]], frozenset())], [7])
    middle, _ = packed_hidden_states(model, batch, middle_layer=2)
    plain = model(torch.tensor([[1, 400, 401, 402, 7]]), output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(middle, plain, atol=TOLERANCE, rtol=0)


def test_auxiliary_labels_say_which_document_tokens_the_query_holds() -> None:
    batch = pack(
        [1], [QueryList([9, 400, 401], [[401, 500], [500, 600, 400]], frozenset({400, 401}))], [7, 8]
    )
    assert batch.occurs.tolist() == [1, 0, 0, 0, 1]
    assert batch.ids[batch.labelled].tolist() == [401, 500, 500, 600, 400]  # shortest document first
    assert batch.ids[batch.last].tolist() == [8, 8]


def test_a_few_steps_of_training_lower_the_loss() -> None:
    training = trainer(tiny_model())
    losses = [training.step() for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_few_steps_of_the_real_curriculum_run_and_lower_the_loss(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    """The last lesson on text, with the real template, tokenizer and network."""
    size = tokenizer.get_vocab_size()
    record = recipe_record(tokenizer)
    lesson = Curriculum(corpus, size).lessons()[-1]
    fixed = lesson.batch(random.Random(0))
    true_id, false_id = record["true_token_id"], record["false_token_id"]
    assert isinstance(true_id, int)
    assert isinstance(false_id, int)
    settings = Settings(learning_rate=2e-3, warmup_steps=1)
    small = Batch(fixed.prefix, fixed.lists[:2], fixed.suffix)
    training = Trainer(build_model(size, 0), [Lesson("one", lambda rng: small)], true_id, false_id, settings)
    losses = [training.step() for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_same_seed_gives_the_same_losses() -> None:
    first, second = (trainer(tiny_model()) for _ in range(2))
    assert [first.step() for _ in range(3)] == [second.step() for _ in range(3)]


def test_a_run_goes_on_from_its_saved_state(tmp_path: Path) -> None:
    running = trainer(tiny_model())
    for _ in range(3):
        running.step()
    running.save_state(tmp_path / "state.pt")
    resumed = trainer(tiny_model(seed=9))
    resumed.load_state(tmp_path / "state.pt")
    assert resumed.progress == running.progress
    assert resumed.step() == pytest.approx(running.step(), abs=1e-6)


def test_training_ends_with_a_look_at_the_held_out_lists_and_saves() -> None:
    held_out = [easy_batch(random.Random(7))]
    saved: list[bool] = []

    def evaluate(model: Qwen3ForCausalLM) -> dict[str, float]:
        return {"easy": mean_reciprocal_rank(model, held_out, TRUE_ID, FALSE_ID)}

    def save(current: Trainer, *, best: bool) -> None:
        saved.append(best)

    training = trainer(tiny_model(), minutes=0.02)
    training.train(evaluate, save)
    assert saved == [True]
    assert training.progress.best == training.progress.history[-1]["easy"] > 0


def test_lessons_end_when_enough_is_learned_or_after_their_steps() -> None:
    lessons = [
        Lesson("short", easy_batch, max_steps=2),
        Lesson("easy", easy_batch, enough=0.0),
        Lesson("last", easy_batch),
    ]
    training = Trainer(tiny_model(), lessons, TRUE_ID, FALSE_ID, Settings())
    where = []
    for _ in range(4):
        training.step()
        where.append(training.progress.lesson)
    assert where == [0, 0, 1, 2]


def test_an_exported_checkpoint_has_the_models_logits_scaled(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build_model(tokenizer.get_vocab_size(), 0)
    export(model, tokenizer, tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    ids = torch.tensor([[1, 400, 401, 402]])
    torch.testing.assert_close(loaded(ids).logits, LOG_ODDS_SCALE * model(ids).logits, atol=0.005, rtol=0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "checkpoint",
        "config.json",
        "model.safetensors",
        "rerank_recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_equal_tokens_attract_each_other_from_the_start() -> None:
    model = build_model(VOCABULARY_SIZE, 0)
    for layer in model.model.layers[:3]:
        assert torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight)


def test_the_right_passage_of_a_list_covers_the_query_best(corpus: Corpus) -> None:
    maker = ListMaker(corpus, [1], [2])
    for seed in range(30):
        made = maker.make(random.Random(seed), ("en", "zh")[seed % 2], 40)
        right, *wrong = (corpus.coverage(made.query_tokens, ids) for ids in made.documents)
        assert len(made.documents) == 6
        assert right > 0.3
        assert sum(one >= right for one in wrong) <= 1


def test_a_window_holds_its_sentence_whole_and_is_cut_to_length(corpus: Corpus) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        place = Place(seed, rng.randrange(len(corpus.documents[seed].sentences)))
        sentence = corpus.sentence_ids(place)
        window = corpus.window(rng, place, 30, frozenset())
        assert len(window) <= max(30, len(sentence))
        assert any(window[at : at + len(sentence)] == sentence for at in range(len(window)))


def test_held_out_documents_are_never_drawn_for_training(corpus: Corpus) -> None:
    rng = random.Random(0)
    training = {corpus.draw(rng, "en", held_out=False) for _ in range(400)}
    held_out = {corpus.draw(rng, "en", held_out=True) for _ in range(50)}
    assert held_out
    assert not training & held_out


def test_made_queries_keep_words_of_their_sentence() -> None:
    rng = random.Random(0)
    sentence = "The new hospital in the valley was opened in 1987 and has two hundred beds for patients."
    for _ in range(20):
        query = english_query(rng, sentence)
        assert set(query.lower().strip("?").split()) & set(sentence.lower().split())
        assert len(chinese_query(rng, "山谷里的新医院是1987年开业的，有两百张病床，服务附近的居民。")) > 3


def test_strange_words_come_on_top_of_the_query() -> None:
    rng = random.Random(0)
    for _ in range(20):
        english = add_noise_words(
            rng, "who opened the hospital", "Copper conducts electricity.", "en"
        ).split()
        assert [word for word in english if word in {"who", "opened", "the", "hospital"}] == [
            "who",
            "opened",
            "the",
            "hospital",
        ]
        assert set(english) & {"Copper", "conducts", "electricity"}
        chinese = add_noise_words(rng, "医院", "铜的导电性", "zh")
        assert len(chinese) > 2
        assert set("医院") <= set(chinese) <= set("医院铜的导电性")


def test_a_single_process_averages_over_itself() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    assert distributed.average([weight], [0.25, 4.0]) == [0.25, 4.0]
    assert weight.grad.tolist() == [1.0, 2.0]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_random_lists_repeat_most_of_the_query_in_the_right_document_only() -> None:
    rng = random.Random(1)
    for _ in range(50):
        made = mixed_list(rng, VOCABULARY_SIZE, [10], [11])
        right, *wrong = (len(made.query_tokens & set(document)) for document in made.documents)
        assert right >= 1
        assert sum(wrong) / len(wrong) <= right


def test_importing_the_demo_does_not_import_the_training_code() -> None:
    code = (
        "import sys, qwen_rerank_plugins.demo; "
        "print([m for m in sys.modules if m in ('torch', 'numpy', 'tokenizers') or 'demo.train' in m])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
