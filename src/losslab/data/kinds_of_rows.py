"""What a row of a data set is: a question and its answers as texts, or a conversation."""

from dataclasses import dataclass, field
from typing import Any

from losslab.data.images import images_of
from losslab.data.messages import Message, Unusable, is_trained, reasoning, words

UNTRAINED = "has no turn of the assistant whose weight is not 0"  # why such a row cannot be used


@dataclass(frozen=True)
class Texts:
    """A question and its answer, or the chosen and the rejected one, to be put into the model's training prompt."""

    prompt: str
    answers: tuple[str, ...]
    rewards: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()  # of its trained tokens
    arguments: dict[str, Any] = field(default_factory=dict)  # of the chat template, for this row alone
    further: int = 0  # right answers behind the first, which train nothing

    def texts(self) -> list[str]:
        """The question first, then the answers."""
        return [self.prompt, *self.answers]

    def question(self) -> str | None:
        """The question."""
        return self.prompt

    def as_texts(self) -> "Texts":
        """The same, for a prompt that is not a chat. Raises Unusable where it has arguments of a chat template."""
        if self.arguments:
            raise Unusable(
                "has chat_template_kwargs, which model.train_prompt as a text cannot read: set model.train_prompt=chat"
            )
        return self


@dataclass(frozen=True)
class Conversation:
    """Messages for the chat template. The assistant's turns in an answer are trained, those in the prompt are not."""

    prompt: list[Message]
    answers: tuple[list[Message], ...]
    rewards: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()  # of its trained tokens
    tools: list[Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)  # of the chat template, for this row alone
    cut: int = 0  # messages behind the last answer, which train nothing
    further: int = 0  # right answers behind the first, likewise

    @property
    def images(self) -> list[Any]:
        """What stands for the images of all its messages."""
        return images_of([*self.prompt, *(message for answer in self.answers for message in answer)])

    @property
    def messages(self) -> list[Message]:
        """The messages of a row with one answer; of a pair those with the chosen one."""
        return [*self.prompt, *self.answers[0]]

    def texts(self) -> list[str]:
        """The first question, then every message."""
        messages = [*self.prompt, *(message for answer in self.answers for message in answer)]
        asked = next((words(message) for message in messages if message["role"] == "user"), "")
        return [asked, *map(words, messages)]

    def question(self) -> str | None:
        """The question, where it can be asked by itself: one user's text, and nothing else that a chat template would
        write or read; else None."""
        asked = [words(message) for message in self.messages if message["role"] == "user"]
        plain = {message["role"] for message in self.messages} <= {"user", "assistant"} and not self.images
        return asked[0] if plain and len(asked) == 1 and not self.tools and not self.arguments else None

    def as_texts(self) -> Texts:
        """One question and its answer as texts, for a prompt that is not a chat. Raises Unusable for anything else."""
        if self.images:
            raise Unusable("has images, which model.train_prompt as a text does not hold: set model.train_prompt=chat")
        question, answers = self.question(), [answer[-1] for answer in self.answers]
        if not all(any(map(is_trained, answer)) for answer in self.answers):
            raise Unusable(UNTRAINED)
        short = all(len(self.prompt) + len(answer) == 2 for answer in self.answers)
        if question is None or not short or any(m.get("tool_calls") or reasoning(m) for m in answers):
            raise Unusable(
                "is a conversation of several turns, or with a system prompt, tools or chat_template_kwargs, which "
                "model.train_prompt as a text does not hold: set model.train_prompt=chat"
            )
        return Texts(question, tuple(map(words, answers)), self.rewards, self.weights)


Row = Texts | Conversation
