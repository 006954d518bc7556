"""The tables of docs/data.md: layouts of rows that are read, with what is trained, and layouts that are refused.

A test passes every row through the whole path from file to tokens.
"""

import json
from dataclasses import dataclass
from typing import Any

from losslab.data.read_files import COMPRESSIONS, FORMATS

Raw = dict[str, Any]
ASK, SAY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
MORE, THEN = {"role": "user", "content": "+1?"}, {"role": "assistant", "content": "5"}
WRONG, BRIEF = {"role": "assistant", "content": "3"}, {"role": "system", "content": "Be brief."}
CALL = {"function": {"name": "add", "arguments": '{"a": 2}'}}
PAIRS = ("rejected_column=rejected",)


@dataclass(frozen=True)
class Format:
    """An example of a layout: a row, the `dataset` keys that it needs, and the result."""

    name: str
    row: Raw
    keys: tuple[str, ...] = ()
    said: str = ""  # the untrained context, as role: content
    trained: tuple[str, ...] = ()  # the trained texts, each with its end; of a pair the chosen and the rejected one
    refused: str = ""  # a part of the error, instead of the two above


READ = (
    Format("messages", {"messages": [BRIEF, ASK, SAY, MORE, THEN]}, (), "system: Be brief. user: 2+2? user: +1?",
           ("4", "5")),
    Format("messages, the last turn only", {"messages": [ASK, SAY, MORE, THEN]}, ("turns=last",),
           "user: 2+2? assistant: 4 user: +1?", ("5",)),
    Format("messages, content in parts", {"messages": [{"role": "user", "content": [{"type": "text",
           "text": "2+2?"}]}, SAY]},
           (), "user: 2+2?", ("4",)),
    Format("messages with tools", {"tools": [{"name": "add"}], "messages": [
        ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}, SAY]},
        (), "system: add; user: 2+2? tool: 4", ('[add {"a": 2}]', "4")),
    Format("messages as a JSON text", {"chat": json.dumps([ASK, SAY])}, (), "user: 2+2?", ("4",)),
    Format("ShareGPT", {"system": "Be brief.", "conversations": [
        {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        (), "system: Be brief. user: 2+2?", ("4",)),
    Format("question and answer", {"question": "2+2?", "answer": "4"}, (), "user: 2+2?", ("4",)),
    Format("several right answers: the first", {"question": "2+2?", "answer": ["4", "four"]}, (), "user: 2+2?", ("4",)),
    Format("prompt and completion", {"prompt": "2+2?", "completion": "4"}, (), "user: 2+2?", ("4",)),
    Format("the same as messages", {"prompt": [BRIEF, ASK, SAY, MORE], "completion": [THEN]},
           (), "system: Be brief. user: 2+2? assistant: 4 user: +1?", ("5",)),
    Format("Alpaca", {"instruction": "Add.", "input": "2+2", "output": "4"}, (), "user: Add.\n2+2", ("4",)),
    Format("any columns", {"q": "2+2?", "a": "4"}, ("prompt_column=q", "answer_column=a"), "user: 2+2?", ("4",)),
    Format("a template over columns", {"x": 2, "y": 2, "sum": {"value": 4}},
           ("prompt={x}+{y}?", "answer={sum[value]}"), "user: 2+2?", ("4",)),
    Format("pairs with a prompt", {"prompt": "2+2?", "chosen": "4", "rejected": "3"}, PAIRS, "user: 2+2?", ("4", "3")),
    Format("pairs of messages", {"prompt": [ASK], "chosen": [SAY], "rejected": [WRONG]}, PAIRS, "user: 2+2?", ("4",
           "3")),
    Format("pairs of conversations", {"chosen": [ASK, SAY, MORE, THEN], "rejected": [ASK, SAY, MORE, WRONG]}, PAIRS,
           "user: 2+2? assistant: 4 user: +1?", ("5", "3")),
    Format("conversations beside their prompt", {"prompt": "2+2?", "chosen": [ASK, SAY], "rejected": [ASK, WRONG]},
           PAIRS,
           "user: 2+2?", ("4", "3")),
    Format("pairs of transcripts", {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4",
           "rejected": "\n\nHuman: 2+2?\n\nAssistant: 3"},
           PAIRS, "user: 2+2?", ("4", "3")),
    Format("answers with rewards", {"problem": "2+2?", "solution": "4", "reward": 1, "success_rate": 0.5},
           ("reward_column=reward",), "user: 2+2?", ("4",)),
    Format("weights of the answer's tokens", {"problem": "2+2?", "solution": "4", "weights": [1.0, 0.5]},
           ("weights_column=weights",), "user: 2+2?", ("4",)),
)  # fmt: skip
REFUSED = (
    Format("messages beside question and answer", {"question": "2+2?", "answer": "4", "messages": [ASK, SAY]},
           refused="set dataset.messages_column, or dataset.prompt_column and dataset.answer_column"),
    Format("two columns of messages", {"messages": [ASK, SAY], "short": [ASK, SAY]},
           refused="set dataset.messages_column"),
    Format("question, context and answer", {"question": "2+2?", "context": "sums", "answer": "4"},
           refused="can be read as prompts in `question`"),
    Format("pairs without dataset.rejected_column", {"prompt": "2+2?", "chosen": "4", "rejected": "3"},
           refused="set dataset.rejected_column=rejected"),
    Format("pairs of texts without a prompt", {"chosen": "4", "rejected": "3"}, PAIRS,
           refused="has no column of prompts"),
    Format("text that holds all", {"text": "2+2? 4"},
           refused="none is known to hold conversations, or questions and answers"),
    Format("sound or video", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, SAY]},
           refused="content of type input_audio in `messages`; only text and images can be read"),
    Format("messages in Python's spelling", {"prompt": "2+2?", "completion": str([SAY])}, refused="write them as JSON"),
    Format("no turn of the assistant", {"messages": [ASK]}, refused="has no assistant's turn in `messages`"),
    Format("an assistant's turn before any user's", {"messages": [SAY, MORE, THEN]}, refused="no one asks before it"),
    Format("other names for role and content", {"messages": [{"speaker": "user", "content": "2+2?"}, SAY]},
           refused="a message without a role in `messages`"),
)  # fmt: skip


def markdown() -> str:
    """Both tables, and the file formats."""
    head = "| layout | a row | keys of `dataset` | {} |\n|---|---|---|---|\n"
    lines = [head.format("untrained context → **trained**")]
    for example in READ:
        separator = " or " if "rejected" in "".join(example.keys) else ", "
        said = f"{_code(example.said)} → **{separator.join(_code(text) for text in example.trained)}**"
        lines.append(f"| {example.name} | {_code(_json(example.row))} | {_keys(example)} | {said} |\n")
    lines += ["\n", head.format("error")]
    for example in REFUSED:
        lines.append(f"| {example.name} | {_code(_json(example.row))} | {_keys(example)} | … {example.refused} … |\n")
    files = ", ".join(f"`{form}`" for form in FORMATS)
    packed = " or ".join(f"`{form}`" for form in COMPRESSIONS)
    lines.append(
        f"\nSources: {files} files, each also compressed as {packed}, in upper or lower case; folders written by "
        "`save_to_disk`; the hub. The fields of a `.csv` are separated by commas, or by semicolons if its header has no"
        " comma.\n"
    )
    return "".join(lines)


def _json(row: Raw) -> str:
    return json.dumps(row, ensure_ascii=False)


def _code(text: str) -> str:
    shown = text.replace("\n", "\\n").replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def _keys(example: Format) -> str:
    return ", ".join(_code(key) for key in example.keys)
