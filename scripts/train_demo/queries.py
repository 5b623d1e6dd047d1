"""Generate queries from English and Chinese sentences: incomplete statements, and questions without their answer."""

from __future__ import annotations

import random
import re
from typing import Final

_ENGLISH_ASKING: Final = (
    "what is", "what", "which", "who", "when did", "when was", "where is", "where", "why", "how",
    "how does", "how many", "how much", "in what", "what type of", "what kind of", "what did", "who was",
    "how can", "what was the name of",
)  # fmt: skip
_CHINESE_ASKING: Final = (
    "什么",
    "哪个",
    "哪些",
    "谁",
    "多少",
    "何时",
    "哪里",
    "哪种",
    "什么时候",
    "几个",
    "什么类型的",
    "怎样",
)
_CHINESE_FRAME: Final = (
    "如何{}",
    "为什么{}",
    "{}是什么",
    "{}有哪些",
    "怎么{}",
    "什么是{}",
    "{}的作用是什么",
    "{}",
    "{}",
)
_ENDINGS: Final = ("s", "ed", "ing", "es", "ly", "er")


def english_query(rng: random.Random, sentence: str) -> str:
    """Return a question or an incomplete statement from an English sentence."""
    words = sentence.split()
    size = rng.randint(5, 20)
    loss = rng.uniform(0.05, 0.5)
    start = rng.randrange(max(1, len(words) - size + 1))
    words = words[start : start + size]
    asking = rng.random() < 0.7
    if asking and len(words) > 4:
        gap = rng.randint(1, min(4, len(words) - 3))
        place = rng.randrange(len(words) - gap + 1)
        words = words[:place] + words[place + gap :]
    kept = [_inflect(rng, word) for word in words if rng.random() > loss] or words
    if rng.random() < 0.25:
        rng.shuffle(kept)
    text = " ".join(kept).strip(" .,;:!")
    if asking:
        text = f"{rng.choice(_ENGLISH_ASKING)} {text}"
    return text + ("?" if asking and rng.random() < 0.8 else "")


def _inflect(rng: random.Random, word: str) -> str:
    if rng.random() > 0.12 or not word.isalpha() or len(word) < 5:
        return word
    stem = re.sub(r"(?:ing|ed|es|s|ly|er)$", "", word)
    return stem + rng.choice(_ENDINGS)


def chinese_query(rng: random.Random, sentence: str) -> str:
    """Return a question or an incomplete statement from a Chinese sentence."""
    size = rng.randint(8, 26)
    loss = rng.uniform(0.02, 0.3)
    start = rng.randrange(max(1, len(sentence) - size + 1))
    text = sentence[start : start + size].strip("，。；、：,.;: ")
    asking = rng.random() < 0.7
    if asking and rng.random() < 0.7 and len(text) > 7:
        gap = rng.randint(1, min(6, len(text) - 5))
        place = rng.randrange(len(text) - gap + 1)
        text = text[:place] + rng.choice(_CHINESE_ASKING) + text[place + gap :]
    elif asking:
        text = rng.choice(_CHINESE_FRAME).format(text)
    text = "".join(character for character in text if rng.random() > loss)
    if rng.random() < 0.2:
        middle = rng.randrange(1, max(2, len(text)))
        text = text[middle:] + rng.choice(("", "，", "的")) + text[:middle]
    return text + ("？" if asking and rng.random() < 0.8 else "")


def add_noise_words(rng: random.Random, query: str, other: str, language: str) -> str:
    """Insert a few words of an unrelated sentence: real queries contain words that their passage lacks, too."""
    if language == "en":
        words = query.split()
        for word in rng.choices(other.split(), k=rng.randint(1, 4)):
            words.insert(rng.randint(0, len(words)), word.strip(".,;:()"))
        return " ".join(words)
    for _ in range(rng.randint(1, 3)):
        start, place = rng.randrange(len(other)), rng.randint(0, len(query))
        query = query[:place] + other[start : start + rng.randint(1, 3)] + query[place:]
    return query
