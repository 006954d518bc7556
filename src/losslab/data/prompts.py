"""From a problem to the text that a model is given: one rule for training and for evaluation."""

from typing import Any

from jinja2 import TemplateError

from losslab.config.limits import time_limit
from losslab.config.messages import first_line

TEMPLATE_SECONDS = 10  # for one prompt


def render(template: str, problem: str, tokenizer: Any) -> str:
    """The prompt of a problem: the tokenizer's own chat template for `chat`, else `template` with {problem} filled in.

    Braces elsewhere, as in \\boxed{}, stay as they are. Raises ValueError for `chat` without a chat template.
    """
    if template != "chat":
        return template.replace("{problem}", problem)
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template: set model.train_prompt and model.eval_prompt to a text with {problem}"
        )
    messages = [{"role": "user", "content": problem}]
    with time_limit(TEMPLATE_SECONDS, f"the chat template takes more than {TEMPLATE_SECONDS} s for a prompt: mend it"):
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ArithmeticError, LookupError, TypeError, RecursionError, MemoryError) as error:
            reason = first_line(error)
            raise ValueError(f"the chat template of the tokenizer cannot write a prompt ({reason}): mend it") from None


def check_tokenizer(tokenizer: Any, path: str) -> None:
    """Refuse the tokenizer of special tokens alone that transformers makes up for a checkpoint without one."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{path} has no tokenizer: copy that of the model it was made from into the folder")


def encode(prompts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of rendered prompts, with the tokenizer's own BOS where a prompt does not spell it out."""
    spelled = bool(tokenizer.bos_token) and all(prompt.startswith(tokenizer.bos_token) for prompt in prompts)
    return tokenizer(prompts, add_special_tokens=not spelled)["input_ids"]
