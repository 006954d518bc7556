"""What tells a tokenizer from others that make other tokens of the same texts."""

import hashlib
import json
from typing import Any


def tokenizer_key(tokenizer: Any) -> list[Any]:
    """All that decides the tokens of a text: vocabulary, merges, normaliser, chat template, special tokens, and what is
    put around it."""
    vocabulary = _sha256(json.dumps(sorted(tokenizer.get_vocab().items())))
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    around = tokenizer("a")["input_ids"]
    return [vocabulary, tokenizer.chat_template, tokenizer.eos_token_id, special, around, _backend(tokenizer)]


def _backend(tokenizer: Any) -> str | None:
    if not tokenizer.is_fast:
        return None
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("truncation", "padding"):  # which the last call has left behind
        state.pop(key, None)
    return _sha256(json.dumps(state))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
