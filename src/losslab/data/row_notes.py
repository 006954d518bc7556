"""Notes on rows before they are trained on."""

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
    chat = tokeniser.model.train_prompt == "chat"
    texts = any(isinstance(row, Texts) for row in rows.usable.values())
    turn = tokeniser.template.end if chat else None
    if texts and turn and turn != tokeniser.end:
        lines.append(
            f"answers end in {tokeniser.end}, the tokenizer's EOS, and not in {turn}, the end of a turn in the chat "
            "template: dataset.answer_end=turn trains that"
        )
    if chat and "strftime_now" in tokeniser.template.source:
        lines.append("the chat template writes the date of its use into prompts")
    return lines
