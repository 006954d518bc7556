"""Notes on rows before they are trained on."""

import re

from losslab.config.schema import EMBEDDED
from losslab.data.kinds_of_rows import Conversation, Texts
from losslab.data.rows import Rows, describe
from losslab.data.tokenise import Tokeniser


def notes(rows: Rows, tokeniser: Tokeniser) -> list[str]:
    """How the rows are read, and what may surprise about it, in one sentence each."""
    dataset, layout = tokeniser.dataset, rows.layout
    lines = [describe(rows, dataset), *rows.table.remarks]
    if dataset.path != EMBEDDED and layout.unread:
        lines.append(f"not read: {', '.join(layout.unread)}")
    if len(layout.rewards) == 1:
        lines.append("the success rate of a question is that of its rows, as no column has it")
    if cut := sum(row.cut for row in rows.usable.values() if isinstance(row, Conversation)):
        lines.append(f"{cut:,} messages behind the last answer of their rows train nothing")
    if further := [row.further for row in rows.usable.values() if row.further]:
        lines.append(
            f"{sum(further):,} further right answers of {len(further):,} rows train nothing: the first of a list does"
        )
    if tokeniser.model.train_prompt == "chat":
        lines += _notes_on_template(rows, tokeniser)
    return lines


def _notes_on_template(rows: Rows, tokeniser: Tokeniser) -> list[str]:
    """What may surprise about the chat template."""
    lines, template = list[str](), tokeniser.template
    texts = sum(isinstance(row, Texts) for row in rows.usable.values())
    if texts and template.end and template.end != tokeniser.end:
        lines.append(_ends(texts, len(rows.usable) - texts, tokeniser.end, template.end))
    given = [tokeniser.model.template_arguments, *(row.arguments for row in rows.usable.values())]
    names = dict.fromkeys(name for arguments in given for name in arguments)
    if unread := [name for name in names if not re.search(rf"\b{re.escape(name)}\b", template.source)]:
        lines.append(f"arguments that the chat template does not read: {', '.join(unread)}")
    if "strftime_now" in template.source:
        lines.append("the chat template writes the date of its use into prompts")
    return lines


def _ends(texts: int, conversations: int, end: str, turn: str) -> str:
    """In which tokens the answers of two kinds of rows end."""
    if not conversations:
        return (
            f"answers end in {end}, the tokenizer's EOS, and not in {turn}, the end of a turn in the chat template: "
            "dataset.answer_end=turn trains that"
        )
    return (
        f"answers end in two tokens: those of {texts:,} rows of texts in {end}, the tokenizer's EOS, and those of "
        f"{conversations:,} conversations, as rows with a system prompt or tools are, in {turn}, the end of a turn in "
        "the chat template: dataset.answer_end=turn trains that in all"
    )
