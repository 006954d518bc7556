"""Exact match with any of several right answers, as open-domain questions are graded.

The normalisation is that of SQuAD's script (Rajpurkar et al. 2016, arXiv 1606.05250), the open-domain use of it Lee et
al. 2019 (arXiv 1906.00300).
"""

import re
import string
from collections.abc import Iterable

from losslab.grading.official_text import STOPS

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def extract(response: str) -> str:
    """The first line of a response that is not empty, normalised; "" where there is none.

    A base model continues with its own questions below its answer. What stands between think tags does not count where
    something follows.
    """
    _, closed, rest = response.rpartition("</think>")
    response = rest if closed and rest.strip() else response
    for stop in STOPS:
        response = response.split(stop, 1)[0]
    return normalise(next((line for line in response.splitlines() if line.strip()), ""))


def equal(answer: str, golds: Iterable[str]) -> bool:
    """Whether an extracted answer is one of the golds; an empty one never is."""
    return bool(answer) and answer in map(normalise, golds)


def normalise(text: str) -> str:
    """Lower case, without punctuation (ASCII's), without articles, with single spaces between words."""
    lower = text.lower()
    bare = " ".join(ARTICLES.sub(" ", lower.translate(PUNCTUATION)).split())
    return bare or " ".join(lower.split())  # of "A" or "%" nothing would be left to compare
