"""Instructions in Chinese, Spanish and other languages: lengths, whole words, punctuation."""
# ruff: noqa: RUF001

from typing import Any

import pytest

from conjoint.envs.types import Task
from tests.rewards.instructions.scored import scored

WORDS, SENTENCES = "length_constraints:number_words", "length_constraints:number_sentences"
LEAST: dict[str, Any] = {"relation": "at least"}
LESS: dict[str, Any] = {"relation": "less than"}
ZH = "潮水每天涨落两次。渔民等待它，然后出海！你看见了吗？"
ES = "La marea sube dos veces al día. ¿Quién la espera? ¡El pescador, claro!"

ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    # Chinese, Japanese and Thai: letters count as words, whatever stands between them.
    (WORDS, {"num_words": 22, **LEAST}, ZH, ZH[:-2] + "？"),
    (WORDS, {"num_words": 10, **LESS}, "潮水 涨落 GPT4 好 12", ZH),
    ("word_count", {"relation": "exactly", "count": 5}, "用 Python3 写程序。", "用 Python3 写程"),
    ("word_count", {"relation": "exactly", "count": 4}, "潮が来る", "潮が 来"),
    ("word_count", {"relation": "at_least", "count": 5}, "น้ำขึ้นน้ำลง", "น้ำขึ้น"),
    ("word_count", {"relation": "exactly", "count": 3}, "밀물 썰물 바다", "밀물썰물바다"),
    ("word_count", {"relation": "exactly", "count": 4}, "La marea subió ayer.", "La marea subió."),
    (SENTENCES, {"num_sentences": 3, **LEAST}, ZH, "潮水来。船走！"),
    (SENTENCES, {"num_sentences": 2, **LESS}, "他说：“好。”", "好。走！"),
    (SENTENCES, {"num_sentences": 3, **LEAST}, ES, "¿Quién? ¡Yo, claro!"),
    # Whole words: without spaces a word is whole wherever it stands.
    ("keywords:forbidden_words", {"forbidden_words": ["苹果"]}, "我爱梨", "我爱苹果派"),
    ("keywords:forbidden_words", {"forbidden_words": ["año"]}, "los años", "el AÑO nuevo"),
    ("keywords:forbidden_words", {"forbidden_words": ["o"]}, "año", "uno o dos"),
    ("includes", {"keyword": "Python"}, "我用Python写程序", "我用Pythons写程序"),
    ("includes", {"keyword": "港口"}, "船在港口里", "船在海里"),
    ("includes", {"keyword": "está"}, "Aquí esta\u0301.", "Aquí esta."),
    ("keywords:existence", {"keywords": ["港口", "潮水"]}, "潮水进港口", "潮水"),
    ("starts_with", {"text": "今天"}, "今天天气很好。", "明天天气很好。"),
    ("starts_with", {"text": "Hola"}, "¡Hola, mar!", "¡Holas!"),
    ("ends_with", {"text": "再见"}, "朋友，再见。”", "再见，朋友。"),
    ("ends_with", {"text": "adiós"}, "Y ahora, ¡adiós!", "adiós y ya"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "潮水"},
        "一\n\n潮水每天来",
        "一\n\n每天潮水来",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "qué"},
        "¿Qué marea?",
        "Quédate.",
    ),
    # Punctuation.
    ("punctuation:no_comma", {}, "潮水来。船走。", "潮水来，船走。"),
    ("punctuation:no_comma", {}, "海和山", "海、山和船"),
    ("startend:quotation", {}, "「潮水来。」", "潮水「来」"),
    ("startend:quotation", {}, "“潮水来。”", "“潮水来。"),
    ("startend:quotation", {}, "«La marea sube.»", "«La marea» sube."),
    ("language:response_language", {"language": "es"}, ES, ZH),
    ("language:response_language", {"language": "zh-cn"}, ZH, ES),
]


@pytest.mark.parametrize(("name", "asked", "holds", "fails"), ROWS)
def test_a_check_reads_the_language_that_it_meets(
    name: str, asked: dict[str, Any], holds: str, fails: str
) -> None:
    task = Task.make("instruction", "?", {"checks": [{"name": name, **asked}]})
    assert scored(task, holds).reasons == ("all 1 checks hold",)
    assert scored(task, fails).value == 0.0
