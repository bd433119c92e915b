"""The strict rule guesses nothing; the owners' rules stand beside it, with what they guess."""

import pytest

from omnivinci_hf.evaluation.scoring import format_scores, read_answer, score
from omnivinci_hf.evaluation.task import Question
from omnivinci_hf.evaluation.tasks import TASKS
from omnivinci_hf.evaluation.tasks.omnibench import verdict as omnibench_verdict


OPTIONS = ("A dog", "a bell rings", "C major", "café")
# an answer, the letter that it is read as, and why
ANSWERS = [
    ("B", "B", "the letter"),
    ("b", "B", "the case of a letter that stands alone says nothing else"),
    ("B.", "B", "a full stop"),
    ("B)", "B", "a bracket as in the list of options"),
    ("(b)", "B", "brackets"),
    ("[B]", "B", "brackets"),
    ("**B**", "B", "bold"),
    ("**B.** a bell rings", "B", "bold, with the option's words"),
    ("`B`", "B", "code"),
    ('"B"', "B", "quotes"),
    (" B\n", "B", "white space"),
    ("\uff22", "B", "a full-width letter is the same letter"),
    ("\u0412", None, "a Cyrillic letter that looks like B is another letter"),
    ("E", None, "there is no such option"),
    ("", None, "nothing"),
    ("...", None, "no letter"),
    ("Answer: B", "B", "a phrase that says nothing but that an answer follows"),
    ("The answer is B.", "B", "the same"),
    ("The correct answer is: (B)", "B", "the same"),
    ("Option B", "B", "the same"),
    ("Therefore, the answer is B", "B", "the same"),
    ("B or C", None, "two letters"),
    ("A, B", None, "two letters"),
    ("AB", None, "no letter alone"),
    ("not B", None, "a word that is no phrase of an answer"),
    ("The answer is B because A is wrong", None, "a sentence: which letter it means is a guess"),
    ("Because it rings: B", None, "a sentence"),
    ("Dog", None, "part of an option"),
    ("a dog", "A", "the option's words, in another case"),
    ("A dog", "A", "the option's words, though they begin with a letter"),
    ("A", "A", "the letter, though an option begins with this word"),
    ("a bell rings.", "B", "the option's words and a full stop"),
    ("A bell rings", "B", "the option's words; the A before them is no letter of theirs"),
    ("B. a bell rings", "B", "letter and words agree"),
    ("B: A bell  rings", "B", "letter and words agree"),
    ("B - a bell rings", "B", "letter and words agree"),
    ("A. a bell rings", None, "letter and words contradict each other"),
    ("a bell rings, I think", None, "more than the option's words"),
    ("C major", "C", "the option's words"),
    ("C minor", None, "a letter before words of no option"),
    ("cafe\u0301", "D", "the same character, composed otherwise"),
    ("cafe", None, "another word"),
    ("<think>Is it A? No, C.</think>B", "B", "a thought is no answer"),
    ("<think>Is it A?</think>\n\n**Answer:** B", "B", "a thought, and bold within the phrase"),
    ("Is it A? No.</think> B", "B", "a thought that the prompt began"),
    ("<think>It must be B", None, "a thought that did not end"),
    ("I cannot tell.", None, "no option"),
    ("B?", None, "a question is no answer"),
]


@pytest.mark.parametrize(("answer", "letter", "reason"), ANSWERS, ids=[repr(answer) for answer, _, _ in ANSWERS])
def test_an_answer_is_read_without_guessing(answer, letter, reason):
    assert read_answer(answer, OPTIONS) == letter, reason


def test_there_are_thirty_odd_answers_or_more():
    assert len(ANSWERS) >= 30 and len({answer for answer, _, _ in ANSWERS}) == len(ANSWERS)


def test_an_answer_that_is_a_letter_and_an_option_of_another_letter_is_not_read():
    assert read_answer("B", ("C", "A", "B", "D")) is None
    assert read_answer("B. A", ("C", "A", "B", "D")) == "B"


def test_words_that_two_options_have_are_not_read():
    assert read_answer("rain", ("rain", "rain", "snow")) is None
    assert read_answer("A. rain", ("rain", "rain", "snow")) == "A"


def question(name, options=("a dog", "a bell rings", "a car", "rain"), answer="B", row=None) -> Question:
    right = None if answer is None else options["ABCD".index(answer)]
    row = {"answer": right, "choices": list(options), **(row or {})}
    return Question("0", (), "What?", tuple(options), answer, {}, row)


@pytest.mark.parametrize(
    ("name", "answer", "verdict", "reason"),
    [
        ("dailyomni", "b) yes", True, "the first letter, in either case"),
        ("dailyomni", "Because", True, "it takes the first letter of a word"),
        ("dailyomni", "The answer is B", False, "T is none of A to D"),
        ("worldsense", "The answer is B", True, "the phrase is taken out"),
        ("worldsense", "Answer: B", True, "so is this one"),
        ("worldsense", "I hear a Bell", True, "it takes a capital within a word"),
        ("worldsense", "b", False, "small letters are none"),
        ("worldsense", "", False, "what has none is wrong"),
        ("videomme", "B.", True, "the first capital"),
        ("videomme", "Answer: B", False, "here the phrase stays, and its A comes first"),
        ("videomme", "none", None, "what has none leaves the denominator"),
        ("mmau", "B", False, "a letter has none of the option's words"),
        ("mmau", "a bell rings", True, "the words"),
        ("mmau", "B. a bell rings", True, "a letter that no other option has as a word"),
        ("mmau", "a bell rings, not a dog", False, "a word of another option"),
        ("mmau", "", False, "no words"),
        ("mmar", "It is a bell that rings", True, "all words, in any order"),
        ("mvbench", "(B) a bell", True, "the letter in brackets"),
        ("mvbench", "B.", True, "without brackets"),
        ("mvbench", "A", False, "another letter"),
        ("mvbench", "", True, "an empty word is part of every letter"),
        ("omnibench", "(B)", True, "a letter in brackets"),
        ("omnibench", "It is A or B", True, "the last one counts"),
        ("omnibench", "I think that a bell rings now", True, "the words of an option in a long answer"),
        ("omnibench", "a bell rings", False, "words count from six on"),
    ],
)
def test_the_owners_rules_give_what_their_scorers_give(name, answer, verdict, reason):
    row = {"Answer": "B"} if name == "dailyomni" else None
    assert TASKS[name].official.verdict(answer, question(name, row=row)) is verdict, reason


def test_the_scorer_of_omnibench_reads_a_right_option_that_begins_with_a_word_a_as_the_letter():
    options = ("He sings", "She sings", "A man sings a song", "Nobody")
    row = question("omnibench", options, "C")
    assert not omnibench_verdict("C", row) and omnibench_verdict("A", row)


def test_a_right_option_that_nobody_finds_is_never_right_by_the_rule_of_omnibench():
    row = question("omnibench", answer=None, row={"answer": "something"})
    assert not omnibench_verdict("nothing", row) and not TASKS["mvbench"].official.verdict("B", row)


def scored(name, answers):
    questions = [
        Question(
            str(n), (), "What?", ("a dog", "a bell"), "B", {"kind": ["one" if n < 2 else "two"]}, {"answer": "a bell"}
        )
        for n in range(4)
    ]
    return score(TASKS[name], questions, {str(n): answer for n, answer in enumerate(answers)})


def test_what_cannot_be_read_and_what_failed_are_wrong_and_counted_apart():
    scores = scored("dailyomni", ["B", "perhaps", None, "A"])
    assert (scores["right"], scores["asked"], scores["unread"], scores["failed"]) == (1, 4, 1, 1)
    assert scores["share"] == 0.25
    assert (scores["official_right"], scores["official_counted"]) == (1, 3)  # failures leave its denominator
    assert scores["groups"]["kind"]["two"]["failed"] == 1


def test_what_the_owners_rule_guesses_right_is_counted():
    scores = scored("dailyomni", ["Because it rings", "B", "A"])
    assert (scores["official_right"], scores["official_right_though_unread"], scores["right"]) == (2, 1, 1)


def test_failures_stay_in_the_denominator_of_owners_who_keep_them():
    scores = scored("worldsense", ["B", None])
    assert (scores["official_counted"], scores["official_share"]) == (2, 0.5)


def test_scores_are_written_side_by_side():
    text = format_scores(scored("dailyomni", ["B", "perhaps", None, "A"]), "DailyOmni")
    assert "DailyOmni: 4 questions asked, of 4 in the data and 1197 that its owners publish" in text
    assert "strict    1 of 4 right (25.0%); 1 answers cannot be read, 1 questions failed" in text
    assert "official  1 of 3 right (33.3%)" in text and "first letter of any word" in text


def test_scores_of_nothing_have_no_shares():
    scores = scored("dailyomni", [])
    assert scores["share"] is None and "0 of 0 right (-)" in format_scores(scores, "DailyOmni")


def test_rows_without_a_right_option_are_told():
    questions = [Question("0", (), "What?", ("a", "b"), None, {}, {"answer": "c", "choices": ["a", "b"]})]
    text = format_scores(score(TASKS["mmar"], questions, {"0": "A"}), "MMAR")
    assert "1 rows name a right answer that is none of their options" in text
