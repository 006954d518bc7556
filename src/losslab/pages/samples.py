"""The data of the browser of samples: problems of each benchmark, and what one or more cells answered to them.

The page's script draws them (samples.js). Verdicts are of all samples; texts may be of the first few.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

VERDICTS = ("official", "corrected")

THUMBNAIL = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]{1,60000}={0,2}")  # the only images that a page shows
LONGEST_GOLD = 4000  # characters; the tests of a program may have more

Json = dict[str, Any]


def problem(record: Mapping[str, Any], prompt: bool = False) -> Json:
    """A problem as the page shows it, from its line in <benchmark>.jsonl."""
    shown: Json = {
        "index": record["index"],
        "question": record["question"],
        "gold": shorten(record["gold"], LONGEST_GOLD),
    }
    if record.get("gold_official", record["gold"]) != record["gold"]:
        shown["gold_official"] = shorten(record["gold_official"], LONGEST_GOLD)
    if record.get("seen"):
        shown["seen"] = True
    if thumbnails := [image for image in record.get("thumbnails", ()) if THUMBNAIL.fullmatch(str(image))]:
        shown["images"] = thumbnails
    return shown | ({"prompt": record["prompt"]} if prompt else {})


def answers(
    samples: Sequence[Mapping[str, Any]], verdict: str, texts: int | None = None, longest: int | None = None
) -> Json:
    """The samples of a problem: every one's verdicts, and texts.

    `right` has a character for each sample: 1 or 0, and `official` and `corrected` likewise where the two differ.

    Args:
        texts: how many right and how many wrong samples have their text; None for all.
        longest: characters of a text, above which its middle is left out.
    """
    marks = {name: "".join("1" if sample[name] else "0" for sample in samples) for name in VERDICTS}
    chosen = [j for kind in "10" for j in [i for i, mark in enumerate(marks[verdict]) if mark == kind][:texts]]
    shown: Json = {"right": marks[verdict], "texts": [_text(j, samples[j], longest) for j in sorted(chosen)]}
    shown["cut"] = sum(sample["finish_reason"] == "length" for sample in samples)
    return shown | (marks if marks["official"] != marks["corrected"] else {})


def _text(number: int, sample: Mapping[str, Any], longest: int | None) -> Json:
    about = {"sample": number, "answer": sample["extracted"], "text": shorten(sample["text"], longest)}
    about |= {"tokens": sample["tokens"], "end": sample["finish_reason"]}
    return about | ({"late": True} if sample["timed_out"] else {})


def shorten(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - longest:,} characters are left out here …]\n{text[-half:]}"


def fitting(problems: Sequence[Json], cells: Sequence[Sequence[Json]], room: int) -> int:
    """How many of the first problems fit into so many characters; a cell without a problem has no samples of it."""
    for i, shown in enumerate(problems):
        room -= len(json.dumps([shown, *(cell[i] for cell in cells if cell)], ensure_ascii=False))
        if room < 0:
            return i
    return len(problems)
