"""Answers that are words or the letter of a choice, and words that take an answer back."""

from __future__ import annotations

import re
import unicodedata
from string import ascii_lowercase, ascii_uppercase

from losslab.grading.official_text import number_in_words

HEDGE = re.compile(
    r"\b(?:possibly|maybe|perhaps|probably|not sure|might be|could be|i guess|i think)\b|\?", re.IGNORECASE
)
NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|or|isn't|aren't|cannot|can't|non|un)\b", re.IGNORECASE)
CHOICE = re.compile(r"\(?\s*([A-Z])\s*\)?")
CHOICE_WITH_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[.)])\s*\S")
WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|['’ ,.!-])*")
LETTERS = re.compile(r"[a-zA-Z]+|(?:[a-zA-Z] )+[a-zA-Z]")
VOWELS = frozenset("aeiou")
FILLERS = frozenset("a an the".split())
LINKS = frozenset("is are was be it answer's it's equals only".split())
EMPTY = frozenset(("\\emptyset", "no solution", "no solutions", "none", "empty set", "no real solutions"))


def shown(text: str) -> str:
    """A text as it looks: without spaces, and without braces that only group."""
    return re.sub(r"(?<!\\)[{}]|\s", "", text)


def hedges(text: str) -> bool:
    """Whether a text leaves open what it says."""
    return HEDGE.search(text) is not None


def unwrapped(text: str) -> str:
    """The text without the mark of upright text, each letter with its accent as one character."""
    return unicodedata.normalize("NFC", re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r"\1", text).strip())


def equal(answer: str, gold: str) -> bool | None:
    """Whether an answer in one notation is the word or the choice that the gold is; None where the gold is neither."""
    bare, target = unwrapped(answer), unwrapped(gold)
    if "\\" not in bare + target and shown(bare) == shown(target) != "":
        return True
    if choice := CHOICE.fullmatch(target):
        return _is_choice(bare, choice[1]) or None if target == choice[1] else _is_choice(bare, choice[1])
    if (choice := CHOICE_WITH_TEXT.match(target)) and CHOICE.fullmatch(bare):
        return _is_choice(bare, choice[1] or choice[2])
    if target.casefold() in EMPTY and bare.casefold() in EMPTY:
        return True
    if re.fullmatch(r"-?\d+", target) and WORDS.fullmatch(bare) and " " not in bare.strip():
        return number_in_words(bare) == target or None
    if WORDS.fullmatch(target) is None or not _is_word(target, gold):
        return None
    if _same_words(_words(bare), _words(target)):
        return True
    if _is_rearranged(bare, target):
        return False
    return None if " " not in target and "\\text" not in gold else False


def _is_choice(answer: str, letter: str) -> bool:
    """Whether the answer begins with the letter, in brackets or before a stop, and names no other."""
    rest = re.fullmatch(
        rf"(?:[a-zA-Z ]+[=:]?\s*)??(?:\(\s*{letter}\s*\)[.:]?|{letter}[.:)]|{letter}(?=\s|$))\s*(.*)", answer, re.DOTALL
    )
    return rest is not None and not re.search(r"\([A-Z]\)|^\s*(?:,|or\b|and\b|[-+*/^=<>_])", rest[1])


def _is_word(text: str, gold: str) -> bool:
    return (
        text.casefold() == "no" or len(text) > 2 and ("\\text" in gold or re.search(r"[^\W\d_]{3}", text) is not None)
    )


def _is_rearranged(answer: str, gold: str) -> bool:
    """Whether the answer has the letters of the gold in another order where the gold is an order or a word.

    An order is of capitals that are neighbours in the alphabet (BCAD), a word of four letters or more with a vowel, or
    of three if it begins with a capital (Amy). Others may be products, whose factors may be exchanged: BIL, nRT, mgh.
    """
    letters = "".join(sorted(gold))
    order = len(gold) > 2 and letters in ascii_uppercase
    word = re.fullmatch("[A-Z][a-z]{2,}|[a-z]{4,}", gold) and not VOWELS.isdisjoint(gold.casefold())
    if not (order or word and gold not in ascii_lowercase) or not LETTERS.fullmatch(answer):
        return False
    text = answer.replace(" ", "").casefold()
    return text != gold.casefold() and sorted(text) == sorted(gold.casefold())


def _words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+(?:'[a-z]+)?", text.casefold().replace("’", "'"))
    return [word for word in words if word not in FILLERS]


def _same_words(answer: list[str], gold: list[str]) -> bool:
    """The same words, or a sentence that ends with them, or a yes or no with more behind it; nothing that negates."""
    if answer == gold:
        return bool(gold)
    if gold in (["yes"], ["no"], ["true"], ["false"]):
        return answer[:1] == gold and "or" not in answer
    if len(answer) > 30 or any(NEGATION.fullmatch(word) for word in answer):
        return False
    before = answer[: -len(gold)]
    return answer[-len(gold) :] == gold and not LINKS.isdisjoint(before)
