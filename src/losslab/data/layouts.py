"""Which columns of a data set hold what, and what a row is then.

Every layout that is read, and every one that is refused, stands in docs/data.md.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.data.images import place, resolved
from losslab.data.kinds_of_rows import Conversation, Row, Texts
from losslab.data.messages import (
    Message,
    Unusable,
    checked,
    from_json,
    looks_like_messages,
    messages_of,
    transcript,
    words,
)
from losslab.data.read_files import Raw
from losslab.data.row_templates import fill, names_in

SYSTEM, TOOLS, ARGUMENTS = "system", "tools", "chat_template_kwargs"  # columns that go along
PYTHON = re.compile(r"\s*\[\s*\{'(role|content|from|value)'")


@dataclass(frozen=True)
class Layout:
    """The columns of a data set; a prompt or answer may also be a template that fills in several."""

    prompt: str | None  # None for whole conversations
    answers: tuple[str, ...]  # one, or chosen and rejected
    templates: frozenset[str] = frozenset()  # which of these are templates
    rewards: tuple[str, ...] = ()
    weights: str | None = None
    system: str | None = None
    tools: str | None = None
    arguments: str | None = None
    images: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        sources = [*([self.prompt] if self.prompt else []), *self.answers]
        names = [name for source in sources for name in (names_in(source) if source in self.templates else [source])]
        extra = [name for name in (self.weights, self.system, self.tools, self.arguments, self.images) if name]
        return list(dict.fromkeys([*names, *self.rewards, *extra]))

    def row(self, raw: Raw, folder: Path = Path()) -> Row:
        """What a row trains; paths of images are relative to `folder`. Raises Unusable."""
        rewards = tuple(_number(raw.get(column), column) for column in self.rewards)
        if rewards and rewards[0] not in (0, 1):
            raise Unusable(f"has a reward in `{self.rewards[0]}` that is neither 1 (right) nor 0 (wrong)")
        weights = _weights(raw.get(self.weights), self.weights) if self.weights else ()
        system, tools, arguments = self._beside(raw)
        prompt = None if self.prompt is None else self._side(self.prompt, raw, "user")
        answers = [self._side(answer, raw, "assistant") for answer in self.answers]
        further = sum(max(0, len(right_answers(raw.get(answer))) - 1) for answer in self.answers)
        texts = [answer for answer in answers if isinstance(answer, str)]
        if isinstance(prompt, str) and len(texts) == len(answers) and not (tools or system or self.images):
            return Texts(prompt, tuple(texts), rewards, weights, arguments, further)
        context, turns = _conversations(prompt, answers, self.answers)
        if system:
            first = context or turns[0]
            if first[0]["role"] == "system":
                raise Unusable(f"has a system prompt in `{self.system}` and another in its messages")
            first.insert(0, {"role": "system", "content": checked(system, str(self.system))})
        if self.images:
            images = _images(raw.get(self.images))
            pictured = [place([*context, *turn], images) for turn in turns]
            context, turns = pictured[0][: len(context)], [messages[len(context) :] for messages in pictured]
        context, turns = resolved(context, folder), [resolved(turn, folder) for turn in turns]
        kept = [_to_last_answer(context, answer, name) for answer, name in zip(turns, self.answers, strict=True)]
        cut = sum(map(len, turns)) - sum(map(len, kept))
        return Conversation(context, tuple(kept), rewards, weights, tools, arguments, cut, further)

    def question(self, raw: Raw) -> str | None:
        """The question of a row, whatever its answer; None where it cannot be asked by itself. Raises Unusable."""
        if self.prompt is None or looks_like_messages(raw.get(self.answers[0])):  # which may hold more questions
            return self.row(raw).question()
        prompt = self._side(self.prompt, raw, "user")
        if any(self._beside(raw)):
            return None
        return prompt if isinstance(prompt, str) else Conversation(prompt, ([],)).question()

    def answer(self, raw: Raw) -> str:
        """The text of a row's answer, of a conversation the assistant's last. Raises Unusable."""
        answer = self._side(self.answers[0], raw, "assistant")
        if isinstance(answer, str):
            return answer
        return next((words(m) for m in reversed(answer) if m["role"] == "assistant"), "")

    def _beside(self, raw: Raw) -> tuple[str, list[Any] | None, dict[str, Any]]:
        """The system prompt, the tools and the chat template's arguments in columns of their own. Raises Unusable."""
        system = raw.get(self.system) if self.system else None
        if not isinstance(system, str | None):
            raise Unusable(f"has a {type(system).__name__}, and no text, in `{self.system}`")
        tools = _tools(raw.get(self.tools)) if self.tools else None
        arguments = _arguments(raw.get(self.arguments)) if self.arguments else {}
        return system if system and system.strip() else "", tools, arguments

    def _side(self, source: str, raw: Raw, role: str) -> str | list[Message]:
        """The text of a prompt or an answer, or its messages."""
        if source in self.templates:
            return checked(fill(source, raw), source)
        value = from_json(raw.get(source))
        if texts := right_answers(value):
            if role == "user" and len(texts) > 1:
                raise Unusable(
                    f"has a list of {len(texts)} texts in `{source}`: none of them is known to be the prompt"
                )
            value = texts[0]
        if isinstance(value, str) and value.strip():
            if PYTHON.match(value):
                raise Unusable(f"has messages in Python's spelling in `{source}`; write them as JSON")
            return checked(value, source)
        if isinstance(value, dict) or looks_like_messages(value):
            return messages_of(value, source, role)
        what = "no text" if value is None or isinstance(value, str) else f"a {type(value).__name__}, and no text,"
        what = "an empty list" if value == [] else what
        raise Unusable(f"has {what} in `{source}`")

    def __str__(self) -> str:
        if self.prompt is None and len(self.answers) == 1:
            return f"conversations in `{self.answers[0]}`"
        prompt = f"prompts in `{self.prompt!s}`" if self.prompt else "conversations"
        names = " and ".join(f"`{answer}`" for answer in self.answers)
        text = f"{prompt}, {'answers' if len(self.answers) == 1 else 'chosen and rejected answers'} in {names}"
        return text.replace("\n", "\\n") + (f", images in `{self.images}`" if self.images else "")


def right_answers(value: Any) -> list[Any]:
    """A list of right answers, of which the first is trained; none for any other value of a column."""
    return value if isinstance(value, list) and value and isinstance(value[0], str) else []


def _conversations(
    prompt: str | list[Message] | None, answers: Sequence[str | list[Message]], names: Sequence[str]
) -> tuple[list[Message], list[list[Message]]]:
    """The messages before the answers, and those of each answer. Raises Unusable."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = []
    for answer, name in zip(answers, names, strict=True):
        if isinstance(answer, str):
            spoken = transcript(answer) if asked is None else None
            if asked is None and spoken is None:
                raise Unusable(f"has a text in `{name}` in which no one asks")
            turns.append(spoken or [{"role": "assistant", "content": answer}])
        else:
            turns.append(answer)
    whole = [answer[0]["role"] in ("system", "developer", "user") for answer in turns]
    if any(whole):
        if not all(whole):
            raise Unusable(f"has a whole conversation in one of {' and '.join(names)} and an answer in the other")
        if isinstance(prompt, list) and any(answer[: len(prompt)] != prompt for answer in turns):
            raise Unusable(f"has a conversation in `{names[0]}` that does not begin with its prompt")
        said = [[words(m).strip() for m in answer if m["role"] == "user"] for answer in turns]
        if isinstance(prompt, str) and any(prompt.strip() not in texts for texts in said):
            raise Unusable(f"has a conversation in `{names[0]}` that does not ask the question of its prompt")
        shared = len(prompt) if isinstance(prompt, list) else 0
        if len(turns) == 2:
            pairs = list(zip(*turns, strict=False))
            shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            if any(said) and all(message["role"] != "user" for message in turns[0][:shared]):
                raise Unusable("has a chosen and a rejected answer to different questions or system prompts")
        return turns[0][:shared], [answer[shared:] for answer in turns]
    if asked is None:
        role = turns[0][0]["role"]
        begin = "an answer" if role == "assistant" else f"a message of role {role!r}"
        raise Unusable(f"begins with {begin} in `{names[0]}`, and no one asks before it")
    return list(asked), turns


def _to_last_answer(context: list[Message], answer: list[Message], name: str) -> list[Message]:
    """The messages of an answer up to the assistant's last one. Raises Unusable where nothing can be trained."""
    last = max((i for i, message in enumerate(answer) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise Unusable(f"has no assistant's turn in `{name}`")
    for message in answer[: last + 1]:
        if message["role"] == "assistant" and not message["content"].strip() and not message.get("tool_calls"):
            raise Unusable(f"has an empty assistant's turn in `{name}`")
    if not context and answer[0]["role"] == "assistant":
        raise Unusable(f"begins with an answer in `{name}`, and no one asks before it")
    return answer[: last + 1]


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)  # of CSV it is a text
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise Unusable(f"has no number from 0 to 1 in `{column}`")
    return number


def _weights(value: Any, column: str) -> tuple[float, ...]:
    try:
        numbers = json.loads(value) if isinstance(value, str) else value  # of CSV it is a text
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers):
        raise Unusable(f"has no list of numbers from 0 in `{column}`")
    return tuple(map(float, numbers))


def _images(value: Any) -> list[Any]:
    """What stands for each image of a row; a column may hold one, a list of them, or nothing."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _tools(value: Any) -> list[Any] | None:
    try:
        tools = json.loads(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        tools = value
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Unusable(f"has no list of objects in `{TOOLS}`")
    return tools


def _arguments(value: Any) -> dict[str, Any]:
    try:
        arguments = json.loads(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        arguments = value
    if arguments and not isinstance(arguments, dict):
        raise Unusable(f"has no object in `{ARGUMENTS}`")
    return arguments or {}
