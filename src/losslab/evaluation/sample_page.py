"""A page for reading the samples of an evaluation: one file that opens without a server."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from losslab.grading import corrected_text

ROOM = 20_000_000  # characters of samples on the page, which browsers still open; all of them are in the records

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
nav { position: sticky; top: 0; padding: .6rem 0; background: Canvas; border-bottom: 1px solid #8884; }
nav label { margin-right: 1rem; }
article { border: 1px solid #8884; border-radius: .4rem; padding: .6rem 1rem; margin: .8rem 0; }
code { white-space: pre-line; } /* a line for each right answer */
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; margin: .4rem 0; }
summary { cursor: pointer; } .right { color: #1a7f37; } .wrong { color: #cf222e; } .note { opacity: .7; }
[hidden] { display: none; }
"""

SCRIPT = """
const controls = ["benchmark", "verdict", "text"].map(id => document.getElementById(id));
const tests = {
  all: () => true,
  solved: a => a.dataset.right === a.dataset.samples,
  mixed: a => a.dataset.right !== "0" && a.dataset.right !== a.dataset.samples,
  unsolved: a => a.dataset.right === "0",
  disagree: a => a.dataset.disagree === "1",
  cut: a => a.dataset.cut === "1",
  seen: a => a.dataset.seen === "1",
};
function filter() {
  const [benchmark, verdict, text] = controls.map(control => control.value);
  let shown = 0;
  for (const article of document.querySelectorAll("article")) {
    article.hidden = !((benchmark === "" || article.dataset.benchmark === benchmark) && tests[verdict](article)
      && article.textContent.toLowerCase().includes(text.toLowerCase()));
    shown += !article.hidden;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
for (const control of controls) control.addEventListener("input", filter);
filter();
"""


Record = Mapping[str, Any]


def page(title: str, scores: Record, records: Mapping[str, Sequence[Record]], room: int = ROOM) -> str:
    """The scores, where the two verdicts differ, and the problems with their samples and verdicts, as HTML.

    Each benchmark has the same share of `room` characters for its first problems.
    """
    verdict = scores["verdict"]
    warnings = "".join(f"<p class='wrong'>{escape(warning)}</p>" for warning in scores["warnings"])
    articles, note = "", ""
    for name, all_ in records.items():
        shown, size = [], 0
        for record in all_:
            shown.append(_problem(name, record, verdict))
            size += len(shown[-1])
            if size >= room // len(records):
                break
        articles += "".join(shown)
        if left := len(all_) - len(shown):
            note += f" {left} more problems of {escape(name)} are in its records."
    options = "".join(f"<option>{escape(name)}</option>" for name in records)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{STYLE}</style>
<h1>{escape(title)}</h1>
{_scores(scores)}{warnings}
<h2>Where the verdicts differ</h2>
{"".join(_disagreements(name, all_, scores["benchmarks"][name]) for name, all_ in records.items())}
<h2>Samples</h2>
<nav><label>benchmark <select id="benchmark"><option value="">all</option>{options}</select></label>
<label>problems <select id="verdict"><option>all</option><option>solved</option><option>mixed</option>
<option>unsolved</option><option value="disagree">verdicts disagree</option>
<option value="cut">cut by length</option><option value="seen">in the training data</option></select></label>
<label>containing <input id="text" type="search"></label><span id="shown" class="note"></span></nav>
<p class="note">{note}</p>
{articles}
<script>{SCRIPT}</script></html>
"""


def _scores(scores: Record) -> str:
    """The scores of each benchmark; pass@k and maj@k are of all its samples."""
    heads = [f"{scores['verdict']} verdict", "score", "rounded", "95%", "pass@k", "maj@k", "official", "corrected"]
    rows = []
    for name, row in scores["benchmarks"].items():
        k, interval = str(row["samples"]), "{:.1f} – {:.1f}".format(*row["interval"]) if row["interval"] else "–"
        score = [f"{escape(name)} avg@{k}", f"{row['score']:.2f}", f"{row['rounded']:.2f}", interval]
        others = [row["pass_at"][k], row["maj_at"][k], row["official"], row["corrected"]]
        shares = [row["without_answer"], row["cut_by_length"]]
        rest = [*(f"{share:.0f}%" for share in shares), f"{row['mean_tokens']:.0f}", str(row["timed_out"])]
        rows.append([*score, *(f"{value:.1f}" for value in others), *rest])
    return _table([*heads, "no answer", "cut", "tokens", "timed out"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [("th", heads), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{cell}</{tag}>" for cell in line) for tag, line in lines)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


def _disagreements(name: str, records: Sequence[Record], row: Record) -> str:
    """Every answer on which the two verdicts differ, and how many samples gave it."""
    found: Counter[tuple[int, str, str, str]] = Counter()
    for record in records:
        for sample in record["samples"][: row["samples"]]:
            if sample["official"] != sample["corrected"]:
                side = "official" if sample["official"] else "corrected"
                found[record["index"], record["gold"], corrected_text.extract(sample["text"]), side] += 1
    title = (
        f"{escape(name)}: right by the official verdict alone {row['only_official']}, by the corrected verdict alone "
    )
    title += f"{row['only_corrected']} of {len(records) * row['samples']} samples"
    rows = [
        [str(index), f"<code>{escape(gold)}</code>", f"<code>{escape(answer)}</code>", side, str(count)]
        for (index, gold, answer, side), count in sorted(found.items())
    ]
    table = _table(["problem", "gold", "answer", "right by", "samples"], rows)
    return f"<details><summary>{title}</summary>{table if rows else ''}</details>"


def _problem(name: str, record: Record, verdict: str) -> str:
    samples = record["samples"]
    right = sum(sample[verdict] for sample in samples)
    disagree = any(sample["official"] != sample["corrected"] for sample in samples)
    cut = any(sample["finish_reason"] == "length" for sample in samples)
    seen = "" if not record["seen"] else ", in the training data"
    other = "" if record["gold"] == record["gold_official"] else f" (official: {escape(record['gold_official'])})"
    head = f"<b>{escape(name)} {record['index']}</b> <span class='note'>{right} of {len(samples)} right{seen}</span>"
    return (
        f"<article data-benchmark='{escape(name)}' data-right='{right}' data-samples='{len(samples)}' "
        f"data-disagree='{disagree:d}' data-cut='{cut:d}' data-seen='{bool(seen):d}'>{head}"
        f"<pre>{escape(record['question'])}</pre>"
        f"gold <code>{escape(record['gold'])}</code>{other}"
        f"<details><summary class='note'>prompt</summary><pre>{escape(record['prompt'])}</pre></details>"
        + "".join(_sample(sample, verdict) for sample in samples)
        + "</article>\n"
    )


def _sample(sample: Record, verdict: str) -> str:
    mark = "right" if sample[verdict] else "wrong"
    ended = {"length": "cut by length", "too_long": "problem too long"}.get(sample["finish_reason"], "")
    notes = [f"{sample['tokens']} tokens", ended]
    if sample["official"] != sample["corrected"]:
        notes.append("official: " + ("right" if sample["official"] else "wrong"))
        notes.append("corrected: " + ("right" if sample["corrected"] else "wrong"))
    if sample["timed_out"]:
        notes.append("grading timed out")
    answer = escape(sample["extracted"]) or "(no answer)"
    return (
        f"<details><summary><span class='{mark}'>{mark}</span> <code>{answer}</code> "
        f"<span class='note'>{', '.join(filter(None, notes))}</span></summary>"
        f"<pre>{escape(sample['text'])}</pre></details>"
    )
