"""The official verdict: the rules of the Qwen2.5-Math evaluation, its known faults included, so that scores compare.

Written from the observed behaviour of that evaluation. What differs on purpose: nothing that a model wrote is executed,
and a verdict never depends on what was graded before. How an answer is read is in `official_text`.
"""

from __future__ import annotations

import re
from math import isclose

from losslab.grading.official_text import CHOICES, last_choice


def equal(prediction: str, gold: str) -> bool:
    """Whether the official evaluation takes an extracted answer as equal to a gold. May run for long: see `Grader`."""
    verdict = equal_as_text(prediction, gold)
    return _equal_as_mathematics(prediction, gold) if verdict is None else verdict


def equal_as_text(prediction: str, gold: str) -> bool | None:
    """The part of `equal` that needs no symbolic mathematics: fast and safe; None where it cannot decide."""
    if prediction.strip().lower() == gold.strip().lower():
        return True
    if gold in CHOICES and last_choice(prediction.strip("\n")) == gold:
        return True
    value, target = _number(prediction), _number(gold)
    if value is not None and target is not None:
        return any(isclose(scaled, value, rel_tol=1e-4) for scaled in (target / 100, target, target * 100))
    return None if prediction else False


def _number(text: str) -> float | None:
    """Commas are dropped; a percentage is a hundredth."""
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(text[:-1].removesuffix("\\")) / 100 if text.endswith("%") else None
    except ValueError:
        return None


def _equal_as_mathematics(prediction: str, gold: str) -> bool:
    """The rules behind the numbers: brackets ignored, then part by part, then equations, then symbols."""
    gold, prediction = gold.strip(), prediction.strip()
    if "pmatrix" in prediction and "pmatrix" not in gold:
        gold = ", ".join(
            "\\begin{pmatrix}" + braced.strip("{}").replace(",", "\\") + "\\end{pmatrix}"
            for braced in re.findall(r"\{.*,.*\}", gold)
        )
    if _without_brackets(prediction, gold):
        return True
    bracketed = re.compile(r"[(\[].+[)\]]")
    if bracketed.match(prediction) and bracketed.match(gold):
        if _all_equal(prediction[1:-1].split(","), gold[1:-1].split(",")):
            return True
    if _is_matrix(prediction) and _is_matrix(gold):
        rows, gold_rows = _matrix_rows(prediction), _matrix_rows(gold)
        if len(rows) == len(gold_rows) and all(
            _all_equal(row, other) for row, other in zip(rows, gold_rows, strict=True)
        ):
            return True
    if prediction.count("=") == 1 and gold.count("=") == 1:
        differences = ["{} - ({})".format(*(side.strip() for side in text.split("="))) for text in (prediction, gold)]
        if equal_as_symbols(*differences) or equal_as_symbols(f"-({differences[0]})", differences[1]):
            return True
    if prediction.count("=") == 1 and "=" not in gold and len(prediction.split("=")[0].strip()) <= 2:
        if equal(prediction.split("=")[1], gold):
            return True
    if gold.count("=") == 1 and "=" not in prediction and len(gold.split("=")[0].strip()) <= 2:
        if equal(prediction, gold.split("=")[1]):
            return True
    return equal_as_symbols(prediction, gold)


def _all_equal(parts: list[str], gold_parts: list[str]) -> bool:
    return len(parts) == len(gold_parts) and all(
        equal(part, other) for part, other in zip(parts, gold_parts, strict=True)
    )


def _without_brackets(prediction: str, gold: str) -> bool:
    strip = (prediction[:1] == "[" and prediction[-1:] == "]" and gold[:1] != "(") or (
        prediction[:1] == "(" and prediction[-1:] == ")" and gold[:1] != "["
    )
    if strip:
        prediction, gold = prediction.strip("[]()"), gold.strip("[]()")
    removed = str.maketrans("", "", "{}()")
    return prediction.translate(removed).lower() == gold.translate(removed).lower()


def _is_matrix(text: str) -> bool:
    return text.startswith(("\\begin{pmatrix}", "\\begin{bmatrix}")) and text.endswith(
        ("\\end{pmatrix}", "\\end{bmatrix}")
    )


def _matrix_rows(text: str) -> list[list[str]]:
    lines = text[len("\\begin{pmatrix}") : -len("\\end{pmatrix}")].split("\\\\")
    return [line.strip().split("&") for line in lines if line.strip()]


def equal_as_symbols(prediction: str, gold: str) -> bool:
    """Symbolic equality, then numerical within 1e-4, then matrices rounded to three decimals."""
    from losslab.grading import symbols  # sympy takes half a second to import, and most pairs never need it

    return symbols.equal(symbols.read(prediction), symbols.read(gold))
