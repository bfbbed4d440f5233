import pytest

from data.answers import extract_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{42}.", "42"),
        (r"\boxed{\frac{\sqrt{2}}{3}}", r"\frac{\sqrt{2}}{3}"),
        (r"first \boxed{1}, then \boxed{\frac{x^{n_{1}}}{2}}", r"\frac{x^{n_{1}}}{2}"),
        (r"{ open, then \boxed{\left\{ 1, 2 \right)} and } more", r"\left\{ 1, 2 \right)"),
        (r"\boxed{\begin{matrix}{1}\\{2}\\\end{matrix}}", r"\begin{matrix}{1}\\{2}\\\end{matrix}"),
        (r"as JSON has it: \\boxed{7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3} and cut: \boxed{\frac{1}{", "3"),
        (r"Answer: 4, no: \boxed{5", r"4, no: \boxed{5"),
        ("\\boxed{" * 20_000, None),
        ("\\boxed{" + "\\text{" * 20_000 + "}" * 20_001, "\\text{" * 19_997 + "}" * 19_997),
        (r"\boxed{The answer is 42}", "42"),
        (r"\boxed{\text{The final answer is: }42.}", "42"),
        (r"\boxed{So, the correct answer is (B).}", "(B)"),
        (r"\boxed{\text{Answer: } \frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{The answer is \textbf{east}}}", "east"),
        (r"\boxed{\text{Evelyn}}", "Evelyn"),
        (r"\boxed{10\text{ cm}}", "10 cm"),
        (r"\boxed{The answer is}", "The answer is"),
        (r"\boxed{that the answer is 4 is wrong}", "that the answer is 4 is wrong"),
        (r"\boxed{answered}", "answered"),
    ],
)
def test_the_last_box_that_is_closed_counts_whatever_braces_it_has(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Answer: 5", "5"),
        ("so\n  the final answer is 5.", "5"),
        ("Answer: 5\nanswers may vary", "5"),
        ("Answering the question we get 7.", None),
        ("#### 7", "7"),
        ("Answer:\n7", "7"),
        ("Answer: 7\nAnswer:", "7"),
        ("**Answer:** 42", "42"),
        ("**Answer**: 42", "42"),
        ("**Final answer: 42.**", "42"),
        ("The answer is **42**.", "42"),
        ("**Answer:**", None),
        ("Answer: 2**3", "2**3"),
        ("### Final Answer\n42", "42"),
        ("## Answer: **42**.", "42"),
        ("21 - 15 = 6. The answer is 6.", "6"),
        ("So the answer is 6. Is the answer 7? The answer is 8.", "8"),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "$5$"),
        ("The answer is Dr. Smith.", "Dr. Smith"),
        ("The answer is: the answer is 3", "3"),
        ("Therefore, the correct answer is (B).", "(B)"),
        ("The answer depends on x. Answer sheets vary.", None),
        ("no answer: 7", None),
        ("", None),
    ],
)
def test_the_last_line_that_says_answer_counts_bold_or_not(completion, answer):
    assert extract_answer(completion) == answer
