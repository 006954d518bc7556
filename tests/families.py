"""Tokenizers of a hundred tokens and chat templates written in the manner of known families.

The templates are ours and short; each has the trait of its family that decides what is trained.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# <|im_end|> ends a turn, and a line break follows; EOS may be another token.
CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool.name }};{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# The same, with the template's own marks, which leave out the end of the turn.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning stays in the turns after the last question alone, and the last turn always has a block for it.
REASONING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n"
    "{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# BOS is spelled out, headers, a trimmed content.
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# No generation prompt, a blank before the answer, no system prompt.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Roles of its own, an end of turn that is not EOS, turns must alternate.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# No token ends a turn.
PLAIN = (
    "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def bytes_level(template: str, special: list[str], merges: list[tuple[str, str]] | None = None, **options: str):
    """A byte-level tokenizer as of Qwen and Llama 3: one token for each byte, these special ones, and some merges."""
    merges = merges or []
    vocabulary = [*special, *BYTES, *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **options)


def pieces(template: str, special: list[str], **options: str):
    """A tokenizer in the manner of SentencePiece, as of Mistral: blanks are ▁, and one begins every text."""
    letters = [chr(i) for i in range(33, 127)] + ["\n", "▁", "▁4", "▁a"]
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    raw = Tokenizer(models.BPE(vocabulary, [("▁", "4"), ("▁", "a")], unk_token=special[0]))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **options)


def surrounded(tokenizer, before: str = "", behind: str = ""):
    """The tokenizer with a post-processor that puts tokens before and behind every text."""
    names = [token for token in (before, behind) if token]
    raw = tokenizer.backend_tokenizer
    template = " ".join(part for part in (before, "$A", behind) if part)
    raw.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, raw.token_to_id(name)) for name in names]
    )
    return tokenizer


def chatml(template: str = CHATML, eos: str = "<|im_end|>", merges: list[tuple[str, str]] | None = None):
    return bytes_level(template, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], merges, eos_token=eos)


def llama():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    options = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return surrounded(bytes_level(LLAMA, special, **options), "<|begin_of_text|>")


def mistral():
    return surrounded(pieces(MISTRAL, ["<unk>", "<s>", "</s>"], bos_token="<s>", eos_token="</s>"), "<s>")


def gemma():
    special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    return surrounded(bytes_level(GEMMA, special, bos_token="<bos>", eos_token="<eos>"), "<bos>")
