"""The answer that a model gave, as it wrote it, and the true gold, before any clean-up."""

from __future__ import annotations

import re
from typing import Any

from losslab.grading import official_text

# Golds that the official clean-up damages beyond what their text tells, as (rules, damaged) -> true.
REPAIRED = {
    ("math500", ""): "east",
    ("math500", "864^2"): "864",
    ("math500", "15^2"): "15",
    ("math500", "1\\\\sqrt{19}"): "1\\pm\\sqrt{19}",
    ("math500", "3\\2\\sqrt{2}"): "3\\pm2\\sqrt{2}",
    ("math500", "{1\\\\sqrt{5},-2}"): "\\{1\\pm\\sqrt{5},-2\\}",
    ("math500", "(+5)(b+2)"): "(a+5)(b+2)",
    ("olympiadbench", "n-\\lfloor/2\\rfloor"): "mn-\\lfloor m/2\\rfloor",
    ("olympiadbench", "f(n)=n,(n)=1"): "f(n)=n,g(n)=1",
    ("olympiadbench", "\\frac{3}{2}-1"): "\\frac{3m}{2}-1",
    ("olympiadbench", "=2,=-6-4\\sqrt{2}"): "a=2,a=-6-4\\sqrt{2}",
    ("olympiadbench", "(x)=x^2-2x+2"): "g(x)=x^2-2x+2",
    ("olympiadbench", "\\frac{}{2}"): "\\frac{ab}{2}",
    ("olympiadbench", "\\frac{}{2k(-k)!}"): "\\frac{d!}{2k(d-k)!}",
}
STRAY = re.compile("(?<![\u0400-\u04ff])ки(?![\u0400-\u04ff])")  # a token of some tokenizers, in no Cyrillic word
BOX = re.compile(r"\\f?boxed?\s*(?=\{)")
PLAIN_BOX = re.compile(r"(?<![a-zA-Z])boxed\s*[(\[]([^()\[\]]+)[)\]]|\\boxed\s+([^\s$.,]+)")
BETWEEN_BOXES = re.compile(
    r"(?:\s|\$|\\[()\[\],;: ]|\\q?quad(?![a-zA-Z])|\\(?:text|mathrm)\{[^{}]{0,40}?\b(?:and|or)\s*\}|"
    r"\b(?:and|or)\b|[,;&]|\\\\|\\?[a-zA-Z](?:_\{?\w+\}?)?\s*=)*"
)
NAME_BEFORE = re.compile(r"(\\?[a-zA-Z](?:_\{?\w+\}?)?\s*=)\s*$")
MARKER = re.compile(
    r"(?:answer|correct choice|correct option)\s*(?:is|:|=|\*\*)+\s*:?|####|答案(?:是|为|：|:)|"
    r"^#+\s*(?:final )?answer:?\s*$|\banswer(?=\s*(?:\$|\\\(|\\\[))",
    re.IGNORECASE | re.MULTILINE,
)
FINAL = re.compile(r"final answer\s*(?:is|:)+\s*:?|####|答案(?:是|为)|the answer is\s*:?", re.IGNORECASE)
MATHEMATICS = re.compile(
    r"(?<!\\)\$\$(.+?)\$\$|(?<![\\$])\$(?!\$)([^$]+?)(?<!\\)\$(?![\d$])|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL
)
REASON = re.compile(r",?\s+(?:since|because|as|which|so|where|for)\b.*", re.IGNORECASE)
SENTENCE = re.compile(r"(?:(?<!\d)\.|\.(?!\d)|[。\n])(?=\s|$)|\n|。")
LONGEST_END = 2000  # characters in which an answer without a box is looked for: the patterns are not linear
LAST_CHOICE = re.compile(r"(\([A-J]\)|\A[*\s]*[A-J])[.*\s]*\Z")
PLAIN = re.compile(r"[-+]?\d[\d.]*")  # a number without a unit
LAST_RESORT = re.compile(r"-?\\[dt]?frac\{-?\d+\}\{\d+\}|-?\d+/\d+|-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|-?\d*\.?\d+")


def extract(response: str) -> str:
    """The final answer as the model wrote it; "" where there is none.

    That is the last box, or the last boxes where only "and" and the like stand between them, unless a later sentence
    says what the final answer is; else what follows the last "answer is" and the like; else the formula of the last
    sentence; else the last number. What stands between think tags does not count where something follows.
    """
    for stop in (*official_text.STOPS, "<|im_start|>"):
        response = response.split(stop, 1)[0]
    _, closed, rest = response.rpartition("</think>")
    text = STRAY.sub("", rest if closed and rest.strip() else response)
    boxed, end = _boxed(text)
    if boxed:
        later = list(FINAL.finditer(text, end))
        stated = _stated(text[later[-1].end() :]) if later else ""
        return stated if re.match(r"[-+]?(?:\d|\.\d)|\\|\(", stated) else boxed
    if plain := list(PLAIN_BOX.finditer(text)):
        return (plain[-1][1] or plain[-1][2]).strip()
    if markers := list(MARKER.finditer(text)):
        if answer := _stated(text[markers[-1].end() :]):
            return answer
    if choice := LAST_CHOICE.search(text):
        return choice[1].strip("* \n")
    return _in_last_sentence(text) or _last_number(text)


def _boxed(text: str) -> tuple[str, int]:
    """What the last boxes hold, and where they end; "" and 0 where all are empty."""
    boxes: list[tuple[int, int, str]] = []
    end = 0
    for box in BOX.finditer(text):
        if box.start() >= end:  # no box in a box
            content = official_text.inside_braces(text, box.end())
            end = box.end() + len(content) + 2
            if content.strip() and (end <= len(text) or not boxes):  # one that is never closed counts if it is alone
                boxes.append((box.start(), end, content.strip()))
    if not boxes:
        return "", 0
    first = len(boxes) - 1
    while first and len(gap := text[boxes[first - 1][1] : boxes[first][0]]) < 80 and BETWEEN_BOXES.fullmatch(gap):
        first -= 1
    together = boxes[first:]
    names = [NAME_BEFORE.search(text[max(start - 30, 0) : start]) for start, _, _ in together]
    contents = list(dict.fromkeys(content for _, _, content in together))
    if len(contents) > 1 and all(names) and len({str(name and name[1]) for name in names}) == len(together):
        contents = [f"{name and name[1]} {content}" for name, (_, _, content) in zip(names, together, strict=True)]
    return ", ".join(contents), boxes[-1][1]


def _stated(tail: str) -> str:
    """The answer at the beginning of a text that follows "the answer is"."""
    tail = tail.lstrip(" :*\n")[:LONGEST_END]
    if mathematics := MATHEMATICS.match(tail):
        return _content(mathematics)
    sentence = SENTENCE.split(tail, maxsplit=1)[0].strip().strip("*`").strip()
    if not sentence:
        return ""
    short = REASON.sub("", sentence).strip()
    if len(short.split()) <= 3 or not re.search(r"[a-zA-Z]{3,}\s+[a-zA-Z]{2,}", short):
        return short
    return _in_last_sentence(sentence) or _last_number(sentence) or short


def _in_last_sentence(text: str) -> str:
    """The last formula between delimiters, where no number and no sentence follows it."""
    text = text[-LONGEST_END:]
    formulas = list(MATHEMATICS.finditer(text))
    if not formulas:
        return ""
    behind = text[formulas[-1].end() :]
    return "" if re.search(r"\d|[.!?]\s+\S", behind) else _content(formulas[-1])


def _content(mathematics: re.Match[str]) -> str:
    return next(group for group in mathematics.groups() if group is not None).strip()


def _last_number(text: str) -> str:
    last = ""
    for number in LAST_RESORT.finditer(text.replace("-$", "-").replace("-\\$", "-")):
        last = number[0]
    return last


def gold(rules: str, row: dict[str, Any]) -> str:
    """The true gold of a row as its authors wrote it, before any official clean-up.

    Raises:
        ValueError: the row has none of the columns that the benchmark needs.
    """
    official_text.gold(rules, row)  # the checks of the row are the same
    if rules == "math500" and isinstance(row.get("answer"), str):
        return row["answer"]
    if rules in official_text.GOLD_FROM_SOLUTION:
        return extract(row["solution"])
    if rules == "olympiadbench":
        return ", ".join(part.strip() for part in row["final_answer"])
    if rules == "gsm8k":
        return row["answer"].split("####")[1].strip()
    written = str(row["answer"]).strip()  # of which the clean-up makes 3040 for "30 and 40"; of 025 it makes 25
    return official_text.gold(rules, row) if PLAIN.fullmatch(written) else written


def repaired(rules: str, gold: str) -> str:
    """The true gold behind an official one, where the official clean-up is known to have damaged it."""
    return REPAIRED.get(("math500" if rules == "math_oai" else rules, gold), gold)
