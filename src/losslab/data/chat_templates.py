"""Conversations as a tokenizer's chat template writes them, and which characters of the text are the assistant's.

The template is applied once to a whole conversation. Where it has {% generation %} marks, they say what the assistant
writes. Where it has none, a turn is what follows the template's own generation prompt, and that is verified: the prompt
up to a turn, and the conversation up to its end, must both be beginnings of the whole text. A template that
changes earlier turns when others follow, such as one that removes earlier reasoning, fails this check and is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from losslab.config.limits import time_limit
from losslab.config.messages import first_line
from losslab.data import left_out
from losslab.data.messages import REASONING, Message, Unusable, reasoning, words
from losslab.data.prompts import FAULTS, TEMPLATE_SECONDS

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
SAID = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
LEFT_OUT = "has {} that the chat template leaves out"  # why a row cannot be used
Span = tuple[int, int]  # of characters: from, to


class Rewritten(Exception):
    """The template writes an earlier turn anew once others follow."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with the parts of it that are trained."""

    text: str
    spans: tuple[Span, ...]  # ascending, and apart
    closed: bool  # whether the last part ends in the token by which the template, or EOS, ends a turn
    images: tuple[Any, ...] = ()  # what stands for each, in the order of the text


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, with arguments such as enable_thinking; or another one for its tokens."""

    tokenizer: Any
    arguments: Mapping[str, Any]
    other: str | None = None  # of a processor, which writes images too

    @cached_property
    def source(self) -> str:
        template = self.other or self.tokenizer.chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else str(template)

    @cached_property
    def unread(self) -> str | None:
        """A sentence on arguments whose names the template does not contain, so that they change nothing."""
        names = [name for name in self.arguments if not re.search(rf"\b{re.escape(name)}\b", self.source)]
        if not names or not (self.other or self.tokenizer.chat_template):
            return None
        return f"the chat template does not read {', '.join(names)} of model.template_arguments: check the name"

    @cached_property
    def marked(self) -> bool:
        """Whether the template itself marks what the assistant writes."""
        return bool(MARKS.search(self.source))

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """All added tokens, in one of which a turn may end."""
        return tuple(str(token) for token in self.tokenizer.added_tokens_decoder.values())

    @cached_property
    def end(self) -> str | None:
        """The token that ends an assistant's turn; None for a template that ends it without one."""
        if not (self.other or self.tokenizer.chat_template):
            return None
        try:
            text = self.text(SAID)
        except Unusable:
            return None
        rest = text[text.rindex("b") + 1 :].strip() if "b" in text else ""
        return max((token for token in self.tokens if rest.startswith(token)), key=len, default=None)

    @cached_property
    def whole(self) -> bool:
        """Whether the parts that are found of turns hold their ends, which a template's own marks may leave out."""
        if not self.marked or not self.end:
            return True
        text, marks = self._render(SAID, None, False, True, {})
        return not marks or text[slice(*marks[-1])].rstrip().endswith(self.end)

    @cached_property
    def in_parts(self) -> bool:
        """Whether the template reads the content of a message as a list of parts alone, as LLaVA's does."""
        try:
            return "a" not in self._render([{"role": "user", "content": "a"}], None, False, False, {}, as_is=True)[0]
        except Unusable:
            return True

    def text(
        self,
        messages: Sequence[Message],
        tools: list[Any] | None = None,
        generation: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as text, `generation` with the prompt for another answer. Raises Unusable."""
        return self._render(messages, tools, generation, False, arguments or {})[0]

    def locate(
        self,
        messages: Sequence[Message],
        trained: Sequence[int],
        tools: list[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """A conversation whose messages of the indices `trained`, all of the assistant, are trained.

        Raises Unusable for a conversation that the template does not take or of which it leaves something out, and
        Rewritten where it is impossible to say what the turns are.
        """
        extra = dict(arguments or {})
        text, marks = self._render(messages, tools, False, self.marked, extra)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if marks and list(trained) != turns:
            if len(marks) != len(turns):
                raise Rewritten(f"it marks {len(marks)} parts in {len(turns)} turns, so that no turn can be left out")
            marks = [mark for turn, mark in zip(turns, marks, strict=True) if turn in trained]
        spans = marks or [self._turn(messages, i, text, tools, extra) for i in trained]
        ended = [self._with_end(text, span) for span in spans]
        said = "".join(text[start:stop] for (start, stop), _ in ended)
        self._check_tools(messages, trained, (text, said), tools, extra)
        self._check(messages, trained, text, said)
        return Rendered(text, tuple(span for span, _ in ended), ended[-1][1])

    def _turn(
        self, messages: Sequence[Message], i: int, text: str, tools: list[Any] | None, extra: dict[str, Any]
    ) -> Span:
        """The characters of turn i: between the prompt for it and its end, both verified."""
        before = self.text(messages[:i], tools, True, extra)
        until = text if i == len(messages) - 1 else self.text(messages[: i + 1], tools, False, extra)
        if text.startswith(until) and until.startswith(before):
            return len(before), len(until)
        if until.startswith(before):
            raise Rewritten(f"it writes turn {_ordinal(messages, i)} anew once others follow")
        shown, there = before[_shared(before, until) :], until[_shared(before, until) :]
        raise Rewritten(
            f"it asks for turn {_ordinal(messages, i)} with {_short(shown)!r} where the turn then has {_short(there)!r}"
        )

    def _with_end(self, text: str, span: Span) -> tuple[Span, bool]:
        """A turn up to and with its end token, without what follows that, and whether it has one."""
        start, stop = span
        body = text[start:stop].rstrip()
        if self.whole and body.endswith(self.tokens):
            return (start, start + len(body)), True
        ends = tuple(token for token in (self.end, self.tokenizer.eos_token) if token)
        for token in ends:
            if text.startswith(token, stop):
                return (start, stop + len(token)), True
        if body.endswith(ends):  # no other token, in which a call or reasoning may end before the turn does
            return (start, start + len(body)), True
        return span, False

    def _check(self, messages: Sequence[Message], trained: Sequence[int], text: str, said: str) -> None:
        """Refuse a conversation of which the template leaves out what was said to the model, or what it shall say."""
        for message in messages:
            content = message["content"]
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            if message["role"] in ("system", "developer", "user") and any(part.strip() not in text for part in texts):
                raise Unusable(LEFT_OUT.format(f"a {message['role']}'s message"))
        for i in trained:
            if (thought := reasoning(messages[i]).strip()) and thought not in said:
                if i == len(messages) - 1:
                    raise Unusable(LEFT_OUT.format("reasoning"))
                raise Rewritten(f"it leaves out the reasoning of turn {_ordinal(messages, i)}")
            content = words(messages[i]).strip()
            if content not in said and "".join(content.split()) not in "".join(said.split()):
                if i == len(messages) - 1:
                    raise Unusable("has an answer of which the chat template leaves out a part")
                raise Rewritten(f"it leaves out a part of turn {_ordinal(messages, i)}")

    def _check_tools(
        self,
        messages: Sequence[Message],
        trained: Sequence[int],
        texts: tuple[str, str],
        tools: list[Any] | None,
        extra: Mapping[str, Any],
    ) -> None:
        """Refuse a conversation of which the template leaves out tools, calls, their arguments or their results.

        `texts` are the whole text, and what of it is trained. Raises Unusable.
        """
        if not tools and not any(left_out.uses_tools(message) for message in messages):
            return
        whole, said = map(left_out.squeezed, texts)
        for i, message in enumerate(messages):
            place = said if i in trained else whole
            for name, arguments in left_out.calls(message):
                if not left_out.holds(place, name):
                    raise Unusable(LEFT_OUT.format("a call of a tool"))
                if not left_out.holds(place, arguments):
                    raise Unusable(LEFT_OUT.format("arguments of a call"))
            if message["role"] not in left_out.ASKED and not left_out.holds(whole, words(message)):
                raise Unusable(LEFT_OUT.format(f"a {message['role']}'s message"))
        again, marks = left_out.marked(messages, texts[0])
        if marks and (written := self._if_taken(again, tools, extra)) is not None:
            for mark, what in marks.items():
                if mark not in written:
                    raise Unusable(LEFT_OUT.format(what))
        if tools and left_out.unwritten(tools, texts[0], self._if_taken(messages, None, extra) or "", messages):
            raise Unusable(LEFT_OUT.format("tools"))

    def _if_taken(self, messages: Sequence[Message], tools: list[Any] | None, extra: Mapping[str, Any]) -> str | None:
        """A changed conversation as text; None where the template does not take it, as it may know what tools exist."""
        try:
            return self.text(messages, tools, False, extra)
        except Unusable:
            return None

    def _render(
        self,
        messages: Sequence[Message],
        tools: list[Any] | None,
        generation: bool,
        marks: bool,
        extra: Mapping[str, Any],
        as_is: bool = False,
    ) -> tuple[str, list[Span]]:
        told = f"the chat template takes more than {TEMPLATE_SECONDS} s for a conversation: mend it"
        given = {**self.tokenizer.special_tokens_map, **self.arguments, **extra}
        with time_limit(TEMPLATE_SECONDS, told):
            try:
                rendered: Any = render_jinja_template(
                    [[self._named(message if as_is else self._content(message)) for message in messages]],
                    tools=tools,
                    chat_template=self.other or self.tokenizer.get_chat_template(None, tools),
                    return_assistant_tokens_mask=marks,
                    add_generation_prompt=generation,
                    **given,
                )
            except FAULTS as error:
                raise Unusable(f"is not taken by the chat template ({first_line(error)})") from None
        texts, indices = rendered
        return texts[0], [(start, stop) for start, stop in (indices[0] if marks else [])]

    def _content(self, message: Message) -> Message:
        """A message as the template takes it: of an image it needs the type of the part alone."""
        content = message["content"]
        if isinstance(content, str):
            return message | {"content": [{"type": "text", "text": content}]} if self.in_parts else message
        return message | {"content": [part if "text" in part else {"type": "image"} for part in content]}

    def _named(self, message: Message) -> Message:
        """A message with its reasoning under the name that the template reads."""
        thought = reasoning(message)
        names = [key for key in REASONING if key in self.source]
        if not thought or not names or any(key in message for key in names):
            return message
        return {key: value for key, value in message.items() if key not in REASONING} | {names[0]: thought}


def _ordinal(messages: Sequence[Message], i: int) -> int:
    """The number of the assistant's turn at index i, from 1."""
    return sum(message["role"] == "assistant" for message in messages[: i + 1])


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
