"""Folders of models whose files are damaged, of another kind, or written to run code."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from hostile.case import CODE, Case
from hostile.entry import call
from hostile.files import Writer, as_bytes, as_text, link, missing
from hostile.values import LONG, SHELL, draw, json_values, texts

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")
PYTHON = f"open({CODE!r}, 'w')\n"
TEMPLATES = (
    "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10**11 }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch " + CODE + "') }}",
    "{{ raise_exception('no') }}", "{{ messages[7].content }}", "{% if %}", "{{", "", "{{ 1/0 }}", SHELL, LONG,
)  # fmt: skip


class Payload:
    def __reduce__(self) -> tuple:
        return open, (CODE, "w")


def changed(name: str, **changes: object) -> Writer:
    """A JSON file with other values."""

    def write(path: Path) -> None:
        content = json.loads((path / name).read_text()) if (path / name).is_file() else {}
        (path / name).write_text(json.dumps(content | changes))

    return write


def replaced(name: str, writer: Writer) -> Writer:
    def write(path: Path) -> None:
        if (path / name).exists():
            (path / name).unlink()
        writer(path / name)

    return write


def torn(name: str) -> Writer:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-100]) and None


def pickled(name: str, keep: bool) -> Writer:
    """Pickled weights, alone or beside a safetensors file of another name."""

    def write(path: Path) -> None:
        if keep:
            (path / "model.safetensors").rename(path / "other.safetensors")
        else:
            (path / "model.safetensors").unlink()
        (path / name).write_bytes(pickle.dumps(Payload()))

    return write


def adapter(weights: str | None, about: object, stray: bool = False) -> Writer:
    """The folder becomes an adapter."""

    def write(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        (path / "adapter_config.json").write_text(json.dumps(about))
        if weights:
            (path / weights).write_bytes(pickle.dumps(Payload()))
        if stray:
            (path / "other.safetensors").write_bytes(b"\0" * 16)

    return write


def with_code(path: Path) -> None:
    """Classes of its own, in a module beside the weights."""
    (path / "modeling_own.py").write_text(PYTHON)
    (path / "tokenization_own.py").write_text(PYTHON)
    own = {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    changed("config.json", auto_map=own, model_type="own")(path)
    changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})(path)


def listed() -> dict[str, Writer]:
    lora = {"base_model_name_or_path": "../model", "peft_type": "LORA"}
    writers: dict[str, Writer] = {"code beside the weights": with_code}
    for name in FILES:
        writers |= {
            f"{name}: missing": replaced(name, missing),
            f"{name}: empty": replaced(name, as_bytes(b"")),
            f"{name}: torn": torn(name),
            f"{name}: null": replaced(name, as_text("null")),
            f"{name}: a list": replaced(name, as_text("[]")),
            f"{name}: nested": replaced(name, as_text("[" * 20000)),
            f"{name}: zero bytes": replaced(name, as_bytes(b"\0" * 4096)),
            f"{name}: a link to nothing": replaced(name, link),
            f"{name}: a large header": replaced(name, as_bytes(b"\xff" * 7 + b"\x7f" + b"{}" * 50)),
        }
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt"):
        writers |= {f"{name} alone": pickled(name, False), f"{name} beside a stray file": pickled(name, True)}
    writers |= {f"template {text[:50]!r}": changed("tokenizer_config.json", chat_template=text) for text in TEMPLATES}
    writers |= {
        "an adapter with pickled weights": adapter("adapter_model.bin", lora),
        "an adapter with pickled weights and a stray file": adapter("adapter_model.bin", lora, stray=True),
        "an adapter without weights": adapter(None, lora),
        "an adapter of nothing": adapter(None, {}),
        "an adapter of a list": adapter(None, []),
        "an adapter of itself": adapter(None, {"base_model_name_or_path": "model", "peft_type": "LORA"}),
        "an adapter of the root": adapter(None, {"base_model_name_or_path": "/", "peft_type": "LORA"}),
    }
    return writers


def any_value() -> st.SearchStrategy[tuple[str, Writer]]:
    keys = st.sampled_from(
        ["hidden_size", "num_hidden_layers", "vocab_size", "model_type", "architectures", "max_position_embeddings",
         "rope_parameters", "tie_word_embeddings", "dtype", "eos_token_id", "num_attention_heads", "hidden_act",
         "quantization_config", "intermediate_size", "transformers_version", "auto_map"]
    )  # fmt: skip
    tokens = st.sampled_from(
        ["eos_token", "bos_token", "tokenizer_class", "chat_template", "model_max_length", "extra"]
    )
    values = json_values() | texts() | st.sampled_from([0, -1, 10**9, [], {}, "float8", "os.system"])
    of_config = st.tuples(keys, values).map(
        lambda kv: (f"config.json {kv!r}"[:100], changed("config.json", **{kv[0]: kv[1]}))
    )
    of_tokens = st.tuples(tokens, values).map(
        lambda kv: (f"tokenizer_config.json {kv!r}"[:100], changed("tokenizer_config.json", **{kv[0]: kv[1]}))
    )
    return of_config | of_tokens


def load() -> None:
    """All that is read of a model before it is trained, and one answer of it."""
    from losslab.config.schema import ModelConfig
    from losslab.data.prompts import encode, render
    from losslab.models import merged_adapters
    from losslab.models.loading import load_config, load_model, load_tokenizer

    config = ModelConfig(path=merged_adapters.merged("model", Path("results/cache")))
    load_config(config)
    tokenizer = load_tokenizer(config)
    if tokenizer.chat_template:
        encode([render("chat", "1+1=?", tokenizer)], tokenizer)
    load_model(config)


def cases(count: int, model: Path) -> list[Case]:
    fixed = list(listed().items())[:count]
    drawn = draw(any_value(), count - len(fixed), 3) if count > len(fixed) else []
    return [make(title, writer, model) for title, writer in [*fixed, *drawn]]


def make(title: str, writer: Callable[[Path], None], model: Path) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copytree(model, folder / "model")
        writer(folder / "model")

    names = ("model.path=model", "the adapter model", "model/adapter_config.json", "tokenizer of model", "model has no")
    return Case("model folder", title, call(load), names, prepare)
