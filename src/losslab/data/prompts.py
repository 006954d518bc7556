"""From a problem to the text that a model is given, and to its tokens: one rule for training and for evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from losslab.config.limits import time_limit
from losslab.config.messages import first_line
from losslab.config.prompt import CHAT
from losslab.data.images import parts, text_part
from losslab.data.row_templates import with_breaks

TEMPLATE_SECONDS = 10  # for one prompt
FAULTS = (TemplateError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, MemoryError)


def render(
    template: str,
    problem: str,
    tokenizer: Any,
    arguments: Mapping[str, Any] | None = None,
    turns: Sequence[Mapping[str, str]] = (),
    images: int | None = None,
) -> str:
    """The prompt of a problem: the tokenizer's own chat template for `chat`, else `template` with {problem} filled in.

    `arguments` are those of the chat template, `turns` its messages before the problem's. `images` is how many
    stand in the problem, in the places of <image>; None is for a model that reads none, whose messages are texts,
    not lists of parts. Braces elsewhere, as in \\boxed{}, stay as they are. Raises ValueError for
    `chat` without a chat template, and for images without `chat`.
    """
    if template != CHAT:
        if images:
            raise ValueError("only a chat template says where an image stands: set the prompt of its benchmark to chat")
        return with_breaks(template).replace("{problem}", problem)
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template: set model.train_prompt and model.eval_prompt to a text with {problem}"
        )
    messages: list[dict[str, Any]] = [dict(turn) for turn in turns]
    messages.append({"role": "user", "content": problem})
    if images is not None:
        counts = [*(0 for _ in turns), images]
        messages = [
            message | {"content": parts(message["content"], range(count)) if count else [text_part(message["content"])]}
            for message, count in zip(messages, counts, strict=True)
        ]
    with time_limit(TEMPLATE_SECONDS, f"the chat template takes more than {TEMPLATE_SECONDS} s for a prompt: mend it"):
        try:
            given = {"tokenize": False, "add_generation_prompt": True, **(arguments or {})}
            return tokenizer.apply_chat_template(messages, **given)
        except FAULTS as error:
            reason = first_line(error)
            raise ValueError(f"the chat template of the tokenizer cannot write a prompt ({reason}): mend it") from None


def check_tokenizer(tokenizer: Any, path: str) -> None:
    """Refuse the tokenizer of special tokens alone that transformers makes up for a checkpoint without one."""
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ValueError(f"the tokenizer of {path} has model_max_length={tokenizer.model_max_length!r}: write a number")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{path} has no tokenizer: copy that of the model it was made from into the folder")


def opening(texts: list[str], tokenizer: Any) -> list[int]:
    """Token ids that the tokenizer puts before texts of these, such as BOS; none where they spell it out themselves.

    What it puts behind a text, as some do with EOS, is left out: an answer follows.
    """
    if tokenizer.bos_token and all(text.startswith(tokenizer.bos_token) for text in texts):
        return []
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain)
    return whole[: next(starts, 0)]


def encode(prompts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of rendered prompts, with the tokenizer's own BOS where a prompt does not spell it out."""
    first = opening(prompts, tokenizer)
    return [[*first, *ids] for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
