"""What the tokens of a record are called."""

from transformers import PreTrainedTokenizerBase


def text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a token reads as; its raw form where it is a part of a character."""
    decoded = tokenizer.decode([token])
    whole = decoded and "\N{REPLACEMENT CHARACTER}" not in decoded
    return str(decoded if whole else tokenizer.convert_ids_to_tokens(token))
