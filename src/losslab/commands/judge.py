"""Ask a model about the answers on which the official and the corrected verdict differ.

Of benchmarks whose published evaluation asks a model, such as mathverse, it is asked about all answers. It reads the
last 2,000 characters of a response, and responses to a problem that end in the same ones are asked about once.

losslab judge SCORES url=URL model=NAME
  prices=0.25,2.0      dollars for a million tokens of prompts and of replies
  concurrency=16       requests at once
  retries=5            of a request that fails for a while

losslab judge results/cells/CELL/scores/PROTOCOL url=http://localhost:8000/v1 model=Qwen/Qwen2.5-72B-Instruct
The key is that of the environment variable OPENAI_API_KEY. The replies go to judge.jsonl in the folder of scores, and
how often the judge agrees with either verdict, its own score of benchmarks that it judges whole, and its price, to
judge.json. No other score changes.
"""

import os
import re
from pathlib import Path

from losslab.commands.cli import parse
from losslab.config.errors import exit_on_error
from losslab.config.machine import ENDPOINT_URL

USAGE = "losslab judge SCORES url=http://localhost:8000/v1 model=NAME"


def main(arguments: list[str]) -> None:
    folders, options = parse(arguments, ["url", "model", "prices", "concurrency", "retries"])
    if len(folders) != 1:
        raise ValueError(f"name the one folder of scores to judge: {USAGE}")
    for key in ("url", "model"):
        if not options.get(key):
            raise ValueError(f"{key} has no value: {USAGE}")
    if not ENDPOINT_URL.fullmatch(options["url"]):
        raise ValueError(
            "url must begin with http:// or https:// and hold no user, key or query: it stands in a record"
        )
    numbers = {key: options.get(key, default) for key, default in {"concurrency": "16", "retries": "5"}.items()}
    for key, value in numbers.items():
        if not re.fullmatch(r"[1-9]\d{0,3}", value):
            raise ValueError(f"{key}={value} is not a number from 1 to 9999")
    prices = options.get("prices", "")
    if prices and not re.fullmatch(r"\d+(\.\d+)?,\d+(\.\d+)?", prices):
        raise ValueError(f"prices={prices} are not two prices: write prices=0.25,2.0")
    with exit_on_error(RuntimeError):  # of the endpoint
        from losslab.evaluation.engine_interface import Endpoint
        from losslab.evaluation.judge import judge

        key = os.environ.get("OPENAI_API_KEY") or "none"
        concurrency, retries = (int(numbers[name]) for name in ("concurrency", "retries"))
        result = judge(
            Path(folders[0]),
            Endpoint(options["url"], options["model"], concurrency, retries, key),
            [float(price) for price in prices.split(",") if price],
        )
    for name, counts in result["benchmarks"].items():
        print(f"{name}: " + ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()))
    for name, part in result["scores"].items():
        left = f", {part['undecided']} left undecided" if part["undecided"] else ""
        print(f"{name}: {part['score']:.2f}% of {part['samples']:,} samples right by the judge{left}")
    dollars = f", {result['dollars']:.4f} dollars" if "dollars" in result else ""
    tokens = f"{result['prompt_tokens']:,} + {result['tokens']:,} tokens"
    print(f"{result['answers']} different responses, {tokens}{dollars}")
