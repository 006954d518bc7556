"""docs/architectures.md: every decoder of transformers as a tiny random model, trained for one step.

python docs/make_architectures.py           # all families, in minutes
python docs/make_architectures.py qwen3_5   # prints the result for one family
"""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import tiny_models  # noqa: E402

FILE = Path(__file__).with_name("architectures.md")
HEAD = """# Architectures

Made by `python docs/make_architectures.py`, which trains a tiny random model of each family for one step and compares
it with the family's own forward over each sequence separately: unpadded, eager attention, full logits, float32. Exact
means that the cross-entropy agrees within 1e-4 and the norm of the gradient within 1e-3; a test checks most of them.
The models use sliding windows shorter than their sequences, logit caps, attention sinks and multipliers where their
family has them.

- **packed**: exact with several sequences in one row, the fastest way.
- **one length at a time**: packed rows are not exact, as the check at the start of training finds and writes to the
  cell's `packing.json`. Each pass then takes only sequences of one length, which is exact but slower: with few tokens
  in a pass a GPU is not fully used.
  On a GPU that has the kernels of these layers (flash-linear-attention, causal-conv1d, mamba-ssm), the layers receive
  the boundaries of the sequences in a row, and rows are packed if the check finds that exact. The table is for a CPU.
- **refused**: training stops before the first step with the message in the last column.

The same check runs at the start of every training, on your model, your data and your precision.

| `model_type` | trained | why not packed |
|---|---|---|
"""


def families() -> list[str]:
    """Decoders with a causal language model in transformers that fit into a tiny one."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return [name for name in names if name not in tiny_models.LEFT_OUT]


def row(family: str) -> str:
    judged = tiny_models.judge(family)
    print(f"{family}: {judged.result} {judged.cross_entropy:.0e} {judged.gradient:.0e} {judged.sentence}", flush=True)
    reason = judged.sentence.partition("which is slower: ")[2] or judged.sentence
    return f"| {family} | {judged.result} | {reason} |"


def main() -> None:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29577"}
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    chosen = sys.argv[1:]
    rows = [row(family) for family in chosen or families()]
    if not chosen:
        FILE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
        print(f"written: {FILE.name}")


if __name__ == "__main__":
    main()
