"""From a problem to the text that a model is given: one rule for training and for evaluation."""

from typing import Any


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
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def check_tokenizer(tokenizer: Any, path: str) -> None:
    """Refuse the tokenizer of special tokens alone that transformers makes up for a checkpoint without one."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{path} has no tokenizer: copy that of the model it was made from into the folder")


def encode(prompts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of rendered prompts, with the tokenizer's own BOS where a prompt does not spell it out."""
    spelled = bool(tokenizer.bos_token) and all(prompt.startswith(tokenizer.bos_token) for prompt in prompts)
    return tokenizer(prompts, add_special_tokens=not spelled)["input_ids"]
