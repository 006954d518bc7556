"""What a chat template leaves out of a conversation with tools: their definitions, calls, arguments and results.

A template writes values as they are, as JSON or as Python prints them, with escapes and white space of its own; so two
things are asked of a text. It must hold each value, whatever is escaped in it. And since `2` is in many texts, the text
of the same conversation with a mark in each call and each result must hold all marks.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from losslab.data.messages import Message, words

ASKED = ("system", "developer", "user", "assistant")  # what messages of other roles say are results
ESCAPE = re.compile(r"\\+[bfnrtv]?")  # of quotes, backslashes and white space; some templates escape one of them alone
MARK = "Qx{}xQ"  # nothing that a template or a tokenizer knows


def squeezed(text: str) -> str:
    """A text without white space, which templates strip and indent, and without what escapes it or a quote."""
    return "".join(ESCAPE.sub("", text).split())


def holds(text: str, value: Any) -> bool:
    """Whether a squeezed text holds every key and value in a value of JSON, each in some spelling; null is nothing."""
    return all(any(squeezed(form) in text for form in _spellings(leaf)) for leaf in _leaves(value))


def uses_tools(message: Message) -> bool:
    """Whether a message has calls or is a result."""
    return bool(message.get("tool_calls")) or message["role"] not in ASKED


def calls(message: Message) -> Iterator[tuple[str, Any]]:
    """Name and arguments of each call of a message."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        yield str(function.get("name")), function.get("arguments")


def unwritten(tools: Sequence[Any], text: str, bare: str, messages: Sequence[Message]) -> bool:
    """Whether a tool is in a text no more often than in `bare`, the text without tools, and in no system prompt."""
    told = " ".join(words(message) for message in messages if message["role"] in ("system", "developer"))
    for tool in tools:
        function = tool["function"] if isinstance(tool.get("function"), dict) else tool
        name = function.get("name")
        if not isinstance(name, str) or not name:
            if not holds(squeezed(text), tool):
                return True
        elif text.count(name) <= bare.count(name) and name not in told:
            return True
    return False


def marked(messages: Sequence[Message], text: str) -> tuple[list[Message], dict[str, str]]:
    """The messages with a mark in each call's name, its arguments and each result, and what each mark stands in.

    No mark occurs in `text`. What has no words has no mark.
    """
    marks: dict[str, str] = {}

    def mark(what: str) -> str:
        number = len(marks)
        while (made := MARK.format(number)) in text or made in marks:
            number += 1
        marks[made] = what
        return made

    def of_call(call: Any) -> Any:
        function = dict(call.get("function", call))
        arguments = function.get("arguments")
        function["name"] = f"{function['name']}{mark('a call of a tool')}"
        if arguments and isinstance(arguments, dict):
            key = mark("arguments of a call")
            function["arguments"] = {**arguments, key: key}
        return {**call, "function": function}

    result = []
    for message in messages:
        if message.get("tool_calls"):
            message = message | {"tool_calls": [of_call(call) for call in message["tool_calls"]]}
        if message["role"] not in ASKED and words(message).strip():
            end, content = mark(f"a {message['role']}'s message"), message["content"]
            longer = content + end if isinstance(content, str) else [*content, {"type": "text", "text": end}]
            message = message | {"content": longer}
        result.append(message)
    return result, marks


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value


def _spellings(leaf: Any) -> Iterator[str]:
    """A text as it is, as JSON of ASCII and as Python print it, a number or a truth value likewise."""
    yield from (str(leaf), json.dumps(leaf).strip('"'), repr(leaf).strip("'\""))
