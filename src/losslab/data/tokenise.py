"""Converts rows to token ids and marks the trained tokens.

A prompt and an answer that are texts are tokenised apart and joined, so that the model is trained on exactly the token
boundary at which it will be sampled; the answer ends in EOS. A conversation is tokenised as its chat template writes
it; only where a token lies across the border of a trained turn is it tokenised in parts, for the same reason.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from losslab.config.choices import AnswerEnd, Turns
from losslab.config.schema import DatasetConfig, ModelConfig
from losslab.data.chat_templates import ChatTemplate, Rendered, Rewritten
from losslab.data.image_inputs import ImageInputs
from losslab.data.images import images_of
from losslab.data.kinds_of_rows import UNTRAINED, Conversation, Row, Texts
from losslab.data.messages import Message, Unusable, is_trained
from losslab.data.prompts import encode, opening, render
from losslab.distributed.environment import available_cores

Span = tuple[int, int]  # of tokens: from, to


@dataclass(frozen=True)
class Encoded:
    """The tokens of one example, of which some are trained."""

    ids: list[int]
    spans: tuple[Span, ...]  # ascending and apart
    images: tuple[Any, ...] = ()  # what stands for each, in the order of the tokens
    behind_images: int = 0  # the index behind the last token of an image
    image_tokens: int = 0

    @property
    def prompt(self) -> int:
        """Tokens before the first one that is trained."""
        return self.spans[0][0]


@dataclass(frozen=True)
class Tokeniser:
    """How a model's tokenizer turns rows of a data set into examples."""

    model: ModelConfig
    dataset: DatasetConfig
    tokenizer: Any
    images: ImageInputs | None = None  # of a model that reads them

    @cached_property
    def template(self) -> ChatTemplate:
        other = self.images.template if self.images else None
        return ChatTemplate(self.tokenizer, self.model.template_arguments, other)

    @cached_property
    def end(self) -> str:
        """The token behind an answer that is a text."""
        if self.dataset.answer_end == AnswerEnd.eos:
            return self.tokenizer.eos_token
        if self.model.train_prompt != "chat" or not self.template.end:
            raise ValueError(
                "dataset.answer_end=turn needs a chat template that ends a turn with a token: set it to eos"
            )
        return self.template.end

    @cached_property
    def special(self) -> set[int]:
        """The ids of EOS and of all added tokens, one of which may end a turn."""
        return {self.tokenizer.eos_token_id, *self.tokenizer.added_tokens_decoder}

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The tokens in which an answer may end by itself."""
        turn = self.template.end if self.model.train_prompt == "chat" else None
        return tuple({self.end, self.tokenizer.eos_token, turn or self.end})

    def __call__(self, rows: Sequence[Row]) -> Iterator[list[list[Encoded]] | Unusable]:
        """The examples of each row, in groups that stay together: an answer, or a chosen and a rejected one.

        One row has several groups where each turn of a conversation is a separate example. Yields Unusable for a
        row that the chat template does not take; raises Rewritten, with the place of the row in `rows` behind the
        reason, for a template that writes earlier turns anew.
        """
        outcomes: dict[int, list[list[Encoded]] | Unusable] = {}
        plain: dict[int, Texts] = {}
        spoken: dict[int, list[list[Rendered]]] = {}
        expansions = self._expansions(rows)
        for i, row in enumerate(rows):
            try:
                if isinstance(expanded := expansions[i], Unusable):
                    raise expanded
                if self.model.train_prompt != "chat":
                    plain[i] = row.as_texts()
                elif isinstance(row, Texts):
                    plain[i] = row
                else:
                    spoken[i] = self._rendered(row, expanded)
            except Unusable as reason:
                outcomes[i] = reason
            except Rewritten as reason:
                raise Rewritten(str(reason), i) from None
        outcomes |= zip(plain, ([group] for group in self._of_texts(list(plain.values()))), strict=True)
        conversations = [conversation for groups in spoken.values() for group in groups for conversation in group]
        encoded = iter(self._of_conversations(conversations))
        for i, groups in spoken.items():
            outcomes[i] = [[next(encoded) for _ in group] for group in groups]
        for i in range(len(rows)):
            yield outcomes[i]

    def without_end(self, text: str) -> str:
        """An answer without the end token that it spells out itself, so that it has it once."""
        while (bare := text.rstrip()).endswith(self.ends):
            text = bare.removesuffix(next(end for end in self.ends if bare.endswith(end)))
        return text

    def _of_texts(self, rows: list[Texts]) -> Iterator[list[Encoded]]:
        if not rows:
            return
        prompts = [self._prompt(row) for row in rows]
        heads = encode(prompts, self.tokenizer)
        columns = zip(*(row.answers for row in rows), strict=True)
        answers = [
            self.tokenizer([self.without_end(text) for text in column], add_special_tokens=False)["input_ids"]
            for column in columns
        ]
        end = self.tokenizer.convert_tokens_to_ids(self.end)
        for head, *tails in zip(heads, *answers, strict=True):
            if not head:
                raise ValueError("the training prompt has no token: model.train_prompt must not be empty")
            yield [Encoded([*head, *tail, end], ((len(head), len(head) + len(tail) + 1),)) for tail in tails]

    def _prompt(self, row: Texts) -> str:
        """The prompt of a question without images. Raises ValueError for a chat template that does not take it."""
        chat = self.model.train_prompt == "chat"
        if not chat or (self.images is None and not row.arguments):
            return render(self.model.train_prompt, row.prompt, self.tokenizer, self.model.template_arguments)
        self._check_template()
        try:
            return self.template.text([{"role": "user", "content": row.prompt}], None, True, row.arguments)
        except Unusable as reason:
            raise ValueError(f"a question {reason}: mend the chat template of model.path={self.model.path}") from None

    def _check_template(self) -> None:
        """Refuse a tokenizer without a chat template, where its processor has none either. Raises ValueError."""
        if not self.template.other:
            render("chat", "", self.tokenizer)

    def _expansions(self, rows: Sequence[Row]) -> list[list[str] | Unusable]:
        """The text of each image of the rows, and why a row with a broken one cannot be used; all images at once.

        Raises ValueError for rows with images where the model reads none.
        """
        values = [_images(row) for row in rows]
        if not any(values):
            return [[] for _ in rows]
        if self.images is None:
            raise ValueError(
                f"{self.dataset.path} has images, and model.path={self.model.path} reads none: choose a vision-language"
                " model, or take the images out of the rows"
            )
        inputs = self.images

        def of_row(images: list[Any] | Unusable) -> list[str] | Unusable:
            if isinstance(images, Unusable):
                return images
            try:
                return [inputs.expansion(image, Path()) for image in images]
            except Unusable as reason:
                return reason

        with ThreadPoolExecutor(available_cores()) as threads:
            return list(threads.map(of_row, values))

    def _rendered(self, row: Conversation, expansions: list[str]) -> list[list[Rendered]]:
        """A conversation as text: one group, or one for each turn."""
        self._check_template()
        spoken = [[*row.prompt, *(self._bare(message) for message in answer)] for answer in row.answers]
        first = len(row.prompt)
        trained = [
            [i for i, message in enumerate(messages) if i >= first and is_trained(message)] for messages in spoken
        ]
        if not all(trained):
            raise Unusable(UNTRAINED)
        if self.dataset.turns == Turns.each:
            return [[self._located(row, spoken[0][: i + 1], [i], expansions)] for i in trained[0]]
        last = -1 if self.dataset.turns == Turns.last else 0
        pairs = zip(spoken, trained, strict=True)
        return [[self._located(row, messages, turns[last:], expansions) for messages, turns in pairs]]

    def _located(
        self, row: Conversation, messages: list[Message], trained: list[int], expansions: list[str]
    ) -> Rendered:
        said = messages[: trained[-1] + 1]
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in said]
        rendered = self.template.locate(plain, trained, row.tools, row.arguments)
        return self._with_images(rendered, images_of(said), expansions) if self.images else rendered

    def _with_images(self, rendered: Rendered, images: list[Any], expansions: list[str]) -> Rendered:
        """A conversation with the text of each image in its place. Raises Unusable where that is not one for each."""
        assert self.images is not None
        text, places = self.images.expand(rendered.text, expansions[: len(images)])

        def moved(index: int) -> int:
            return index + max((longer for _, stop, longer in places if stop <= index), default=0)

        spans = tuple((moved(start), moved(stop)) for start, stop in rendered.spans)
        return replace(rendered, text=text, spans=spans, images=tuple(images))

    def _bare(self, message: Message) -> Message:
        if message["role"] != "assistant":
            return message
        return message | {"content": self.without_end(message["content"])}

    def _of_conversations(self, rendered: list[Rendered]) -> Iterator[Encoded]:
        """The tokens of each conversation up to the last one that is trained: what follows would change nothing."""
        if not rendered:
            return
        if not self.tokenizer.is_fast:
            raise ValueError("this tokenizer cannot say which characters a token stands for: use its fast version")
        texts = [conversation.text[: conversation.spans[-1][1]] for conversation in rendered]
        first = opening(texts, self.tokenizer)
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for conversation, text, ids, offsets in zip(
            rendered, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            spans = _token_spans(np.array(offsets), conversation.spans)
            if spans is None:
                ids, spans = self._in_parts(text, conversation.spans)
            spans = [(start + len(first), stop + len(first)) for start, stop in spans]
            ids = [*first, *ids]
            if not conversation.closed:
                ids.append(self.tokenizer.eos_token_id)
                spans[-1] = (spans[-1][0], len(ids))
            yield self._encoded(ids, tuple(spans), conversation.images)

    def _encoded(self, ids: list[int], spans: tuple[Span, ...], images: tuple[Any, ...]) -> Encoded:
        if self.images is None or not images:
            return Encoded(ids, spans)
        there = np.flatnonzero(self.images.types(np.array(ids)))
        assert len(there), "the text of an image holds a token of it"
        return Encoded(ids, spans, images, int(there[-1]) + 1, len(there))

    def _in_parts(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Tokens of a text whose trained parts are tokenised apart from the rest, and where they lie."""
        ids: list[int] = []
        there: list[Span] = []
        end = 0
        for start, stop in spans:
            ids += self._plain(text[end:start])
            begin = len(ids)
            ids += self._plain(text[start:stop])
            there.append((begin, len(ids)))
            end = stop
        return ids, there

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _token_spans(offsets: np.ndarray, spans: Sequence[Span]) -> list[Span] | None:
    """Where parts of a text (characters) lie among its tokens (T, 2); None where a token lies across a border."""
    ends = np.maximum.accumulate(offsets[:, 1])
    there = []
    for start, stop in spans:
        first, last = np.searchsorted(ends, (start, stop), side="right").tolist()
        if (ends[first - 1] if first else 0) != start or (ends[last - 1] if last else 0) != stop:
            return None
        there.append((first, last))
    return there


def _images(row: Row) -> list[Any] | Unusable:
    """What stands for the images of a row, which a chosen and a rejected answer have in common."""
    if not isinstance(row, Conversation):
        return []
    images, *others = ([*images_of(row.prompt), *images_of(answer)] for answer in row.answers)
    return (
        Unusable("has a rejected answer to other images than the chosen one")
        if any(o != images for o in others)
        else images
    )
