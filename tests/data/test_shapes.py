"""What is seen to be of another kind than a set of questions, and what is not."""

import pytest

from data.question import Message, Question
from data.shapes import Shapes

ENGLISH = [
    Question.ask(
        f"A {shop} has {n} apples and sells {n // 2} of them. How many apples are left in the {shop}?"
    )
    for n in range(40)
    for shop in ("shop", "market", "store")
]
SHAPES = Shapes.of(ENGLISH)


def chat(*turns):
    return Question(messages=tuple(Message(role=role, content=text) for role, text in turns))


def test_its_own_questions_and_their_like_are_had():
    assert all(map(SHAPES.has, ENGLISH))
    assert SHAPES.has(Question.ask("A farm has 12 pears and sells 5 of them. How many are left?"))
    assert SHAPES.has(Question.ask("12 - 5 = ?"))  # no word of any language


@pytest.mark.parametrize(
    "text",
    [
        "Una tienda tiene 12 manzanas y vende 5. ¿Cuántas manzanas quedan en la tienda?",
        "Ein Laden hat 12 Äpfel und verkauft 5 davon. Wie viele Äpfel sind noch im Laden?",
        "В магазине 12 яблок, 5 продали. Сколько яблок осталось?",
        "商店有12个苹果，卖了5个。还剩多少个苹果？",
    ],
)
def test_another_language_is_not_had(text):
    assert not SHAPES.has(Question.ask(text))


def test_other_turns_are_not_had_but_where_the_set_has_them():
    text = ENGLISH[0].text
    system, several, prefill = (
        chat(("system", "Be brief."), ("user", text)),
        chat(("user", text), ("assistant", "20"), ("user", text)),
        chat(("user", text), ("assistant", "The answer is")),
    )
    assert not any(map(SHAPES.has, (system, several, prefill)))
    assert Shapes.of([*ENGLISH, system]).turns == ("one turn", "system, one turn")
    assert Shapes.of([*ENGLISH, system]).has(system)
    assert all(map(Shapes.of([*ENGLISH, several, prefill]).has, (several, prefill)))


def test_a_language_without_blanks_is_had_by_its_characters():
    chinese = Shapes.of(
        [Question.ask(f"商店有{n}个苹果，卖了{n // 2}个。还剩多少个苹果？") for n in range(50)]
    )
    assert chinese.has(Question.ask("商店有5个梨，卖了2个。还剩多少个？"))
    assert not chinese.has(ENGLISH[0])
