import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from vision_models import picture

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Gold, Rules
from losslab.config.schema import Config, DatasetConfig, ModelConfig
from losslab.data import hub_datasets, table
from losslab.data.prompts import render
from losslab.evaluation.benchmarks import Benchmark, Problem, load
from losslab.evaluation.evaluate import _tokenizer
from losslab.evaluation.prompting import notes
from losslab.grading.graders import Grader

ROWS = {
    "math500": 500,
    "minerva_math": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "amc23": 40,
    "aime25": 30,
    "gsm8k": 1319,
}
QWEN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
LLAMA = (
    "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|end_of_text|>\n"
    "<|start_header_id|>user<|end_header_id|>\n\n{problem}\n"
    "Please reason step by step, and put your final answer within \\boxed{}.<|end_of_text|>\n"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
DEEPSEEK = "User: {problem}\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:"


def config(root: Path, name: str) -> BenchmarkConfig:
    content = yaml.safe_load((root / f"conf/benchmark/{name}.yaml").read_text())
    assert list(content) == [name], "a benchmark's file holds one key, its name"
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BenchmarkConfig), content[name]))


def local(folder: Path, *rows: dict | str, **options) -> Benchmark:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "mine.jsonl").write_text("\n".join(lines) + "\n")
    return load("mine", BenchmarkConfig(path=str(folder / "mine.jsonl"), **options))


def test_every_file_of_the_group_is_one_benchmark_or_a_group_of_tasks(root):
    for path in (root / "conf/benchmark").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        kinds = OmegaConf.structured(BenchmarkConfig)
        found = {name: OmegaConf.to_object(OmegaConf.merge(kinds, keys)) for name, keys in content.items()}
        parts = all(about.task or f"{name}_".startswith(f"{path.stem}_") for name, about in found.items())
        assert parts, path.name
        assert all(about.rows or about.path == "embedded" for about in found.values()), path.name


@pytest.mark.parametrize("name", sorted(ROWS))
def test_real_benchmarks_have_all_their_rows(root, shared, name):
    cfg = config(root, name)
    benchmark = load(name, cfg, shared / "data/benchmarks")
    assert cfg.rows == len(benchmark.problems) == ROWS[name]
    assert [p.index for p in benchmark.problems] == list(range(ROWS[name]))
    assert all(p.gold for p in benchmark.problems)


def test_problems_have_subjects_and_levels(root, shared):
    counts = {}
    for name in ("math500", "olympiadbench"):
        cfg = config(root, name)
        problems = load(name, cfg, shared / "data/benchmarks").problems
        counts |= {(name, column): Counter(p.groups[column] for p in problems) for column in cfg.breakdown}
    assert counts["math500", "level"] == {"1": 43, "2": 90, "3": 105, "4": 128, "5": 134}
    assert counts["math500", "subject"]["Algebra"] == 124 and len(counts["math500", "subject"]) == 7
    assert counts["olympiadbench", "subfield"] == {
        "Algebra": 264, "Combinatorics": 154, "Geometry": 129, "Number Theory": 128
    }  # fmt: skip


def test_the_breakdown_is_no_part_of_the_hash(tmp_path):
    row = {"problem": "1+1?", "answer": "2", "level": 3, "subject": None}
    plain, broken_down = local(tmp_path, row), local(tmp_path, row, breakdown=["level", "subject", "other"])
    assert broken_down.problems[0].groups == {"level": "3"} and plain.problems[0].groups == {}
    assert plain.sha256 == broken_down.sha256


@pytest.mark.parametrize("name", ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"])
def test_golds_and_prompts_are_those_of_the_official_evaluation(root, shared, name):
    rows = [json.loads(line) for line in (shared / "data/grader/reference_golds.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["benchmark"] == {"math500": "math_oai"}.get(name, name)]
    problems = load(name, config(root, name), shared / "data/benchmarks").problems
    assert len(rows) == len(problems)
    assert [p.gold_official for p in problems] == [row["gold_at_scoring"] for row in rows]
    hashes = [hashlib.sha256(render(QWEN, p.question, None).encode()).hexdigest() for p in problems]
    assert hashes == [row["qwen_boxed_prompt_sha256"] for row in rows]


def test_official_prompts_literally():
    asked = "What is $\\frac{1}{2}$?\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert render(QWEN, "What is $\\frac{1}{2}$?", None) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + asked
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(DEEPSEEK, "What is $\\frac{1}{2}$?", None) == f"User: {asked}\n\nAssistant:"
    assert render(LLAMA, "What is $\\frac{1}{2}$?", None) == (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|end_of_text|>\n"
        f"<|start_header_id|>user<|end_header_id|>\n\n{asked}<|end_of_text|>\n"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_models_have_the_official_prompts(root):
    prompts = {"qwen2.5-math": QWEN, "llama": LLAMA, "deepseekmath": DEEPSEEK}
    for path in (root / "conf/model").glob("*.yaml"):
        for family, prompt in prompts.items():
            if path.name.startswith(family):
                assert yaml.safe_load(path.read_text())["eval_prompt"] == prompt, path.name


@pytest.mark.parametrize("name", ["tiny_add", "tiny_long", "tiny_word"])
def test_embedded_benchmarks(root, name):
    first, again = (load(name, config(root, name)) for _ in range(2))
    assert first == again
    assert all(p.gold == p.gold_official and p.gold.isdigit() for p in first.problems)


def test_the_hash_follows_the_content_and_not_the_file(tmp_path):
    one = local(tmp_path, {"problem": "1+1?", "answer": "2"})
    assert one.sha256 == local(tmp_path, {"question": "1+1?", "answer": "2", "level": 3}).sha256
    assert one.sha256 != local(tmp_path, {"problem": "1+1?", "answer": "3"}).sha256


def test_golds_by_rule(tmp_path):
    boxed = local(tmp_path, {"problem": "p", "solution": "so \\boxed{\\frac12}"}, answer="solution", gold=Gold.boxed)
    assert (boxed.problems[0].gold_official, boxed.problems[0].gold) == ("\\frac{1}{2}", "\\frac12")
    hashes = local(tmp_path, {"problem": "p", "answer": "6*7=42\n#### 1,042"}, gold=Gold.hashes)
    assert hashes.problems[0].gold == "1,042"
    parts = local(tmp_path, {"problem": "p", "answer": ["1", "-1"]}, rules=Rules.olympiadbench)
    assert (parts.problems[0].gold_official, parts.problems[0].gold) == ("1", "1, -1")
    assert local(tmp_path, {"problem": "p", "answer": 27.0}).problems[0].gold == "27"


def test_several_right_answers(tmp_path):
    answers = ["Lake  Lugano", "the lake of\nLugano"]
    one = local(tmp_path, {"question": "which lake", "answer": answers}, gold=Gold.any, rules=Rules.exact_match)
    golds = "Lake Lugano\nthe lake of Lugano"
    assert one.problems == [Problem(0, "which lake", golds, golds)]
    assert one.sha256 != Benchmark.of("mine", one.problems, BenchmarkConfig()).sha256


def test_a_benchmark_owns_its_rules_prompt_and_stops(tmp_path, root):
    """Whatever its name is; what it asks for is part of its hash."""
    row = {"problem": "p", "solution": "so \\boxed{0.5 m}"}
    about = {"answer": "solution", "gold": Gold.boxed}
    plain, minerva = local(tmp_path, row, **about), local(tmp_path, row, **about, rules=Rules.minerva_math)
    assert [b.problems[0].gold_official for b in (plain, minerva)] == ["0.5", "0.5m"]
    with Grader(workers=1) as grader:
        verdicts = [grader.submit(b.rules, "\\boxed{0.5 m}", "0.5").result() for b in (plain, minerva)]
    assert [verdict.extracted for verdict in verdicts] == ["0.5", "0.5m"]
    assert [verdict.official for verdict in verdicts] == [True, False]
    prompt, stop = (local(tmp_path, row, **about, **more) for more in ({"prompt": "{problem}!"}, {"stop": ["\n"]}))
    assert len({b.sha256 for b in (plain, minerva, prompt, stop)}) == 4
    own = {name: config(root, name).rules for name in ("math500", "minerva_math", "olympiadbench", "gsm8k", "aime24")}
    assert own == {name: name for name in own} | {"aime24": "general"}


def test_minerva_math_of_the_hub_has_the_box_alone(root, tmp_path):
    cfg = config(root, "minerva_math")
    cfg.rows = None
    (tmp_path / "minerva_math.jsonl").write_text(json.dumps({"question": "p", "answer": "4.5e33"}) + "\n")
    assert load("minerva_math", cfg, tmp_path).problems[0].gold_official == "4.5e33"


def test_a_parquet_file(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"problem": "p", "answer": "4"}]).to_parquet(tmp_path / "mine.parquet")
    assert load("mine", BenchmarkConfig(path=str(tmp_path / "mine.parquet"))).problems[0].gold == "4"


good = {"problem": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([good, '{"problem": "2+'], {}, r"mine\.jsonl:2: this line is not valid JSON, correct or remove it"),
        ([good, "[1]"], {}, r"mine\.jsonl:2: this line is a JSON list, not an object"),
        ([{"id": 7, **good}, {"id": 7, **good}], {}, r"mine\.jsonl:2: id 7 is also that of .*mine\.jsonl:1"),
        ([{"text": "1+1?", "answer": "2"}], {}, "there is no column 'problem'; the row has text, answer"),
        # A column in place of a misspelt one would be asked or compared with in silence.
        ([good | {"text": "1+2?"}], {"question": "txt"}, "no column 'txt'; the row has problem, answer, text"),
        ([good], {"answer": "solu", "gold": Gold.boxed}, "no column 'solu'; the row has problem, answer"),
        ([good], {"answer": "gold"}, "no gold answer: there is no column 'gold'; the row has problem, answer"),
        (
            [{"problem": "p", "answer": {"value": 5}}],
            {},
            r"is \"\{'value': 5\}\", a dict: a gold answer must be a text",
        ),
        ([{"problem": "p", "answer": float("nan")}], {}, "'nan', a float: a gold answer must be a text"),
        (
            [{"problem": "p", "answer": float("inf")}],
            {"rules": Rules.mathvision},
            "'inf', a float: a gold answer must be a text",
        ),
        ([{"problem": "p", "answer": ["Paris", "City of Light"]}], {}, "is a list: set rules: olympiadbench where"),
        ([{"problem": "p", "answer": ["1", {}]}], {"rules": Rules.olympiadbench}, "is '{}', a dict: a gold answer"),
        ([{"problem": "p", "answer": []}], {"rules": Rules.olympiadbench}, "no gold answer"),
        ([good, good | {"answer": "3"}], {}, r"jsonl:2 asks the same as .*jsonl:1, with the gold answer '3' in pl"),
        ([{"problem": " ", "answer": "2"}], {}, "no text in the column 'problem'"),
        ([{"problem": "1+1?"}], {}, r"mine\.jsonl:1: no gold answer"),
        ([{"problem": "1+1?", "answer": None}], {}, "no gold answer"),
        ([{"problem": "1+1?", "answer": ""}], {}, "the gold answer is empty"),
        ([{"problem": "1+1?", "answer": "\\frac{1}{2"}], {}, "does not parse"),
        ([{"problem": "1+1?", "answer": "no box"}], {"gold": Gold.boxed}, "no gold answer"),
        ([{"problem": "1+1?", "answer": "no mark"}], {"gold": Gold.hashes}, "no gold answer"),
        (  # a solution that is taken for the answer, which no model would write
            [{"question": "48 and half of it?", "answer": "48/2=<<48/2=24>>24\n48+24=72\n#### 72"}],
            {},
            r"mine\.jsonl:1: the answer column holds a solution: set gold: hashes",
        ),
        (
            [{"problem": "p", "solution": "As 2+3=5, $x=\\boxed{5}$.", "answer": "5"}],
            {"answer": "solution"},
            r"mine\.jsonl:1: the answer column holds a solution: set gold: boxed",
        ),
        ([{"problem": "p", "answer": "\\boxed{5}"}], {}, "holds a solution: set gold: boxed"),
        ([good], {"gold": Gold.any}, r"mine\.jsonl:1: no list of right answers \(any\) in the column 'answer'"),
        ([{"problem": "p", "answer": []}], {"gold": Gold.any}, "no list of right answers"),
        ([{"problem": "p", "answer": ["a", " "]}], {"gold": Gold.any}, "no list of right answers"),
        ([good], {"rows": 2}, "has 1 problems in place of 2"),
        ([good | {"tags": ["a"]}], {"breakdown": ["tags"]}, "column 'tags' of the breakdown holds no text or number"),
        ([""], {}, "is empty"),
    ],
)
def test_bad_files_are_one_clear_sentence(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        local(tmp_path, *rows, **options)
    assert "\n" not in str(caught.value)


def test_repeated_questions_are_counted_and_a_published_set_keeps_its_contrary_golds(tmp_path):
    rows = [good, {"problem": "2+2?", "answer": "4"}, good]
    assert [(b.repeated, b.contrary) for b in (local(tmp_path, *rows), local(tmp_path, *rows[:2]))] == [(1, 0), (0, 0)]
    published = local(tmp_path, *rows, good | {"answer": "3"}, rows=4)
    assert (published.repeated, published.contrary) == (2, 1)
    warning = "mine: 2 of its 4 problems ask what an earlier one asks, 1 of them with another gold answer: each counts"
    assert [note.partition(" in the score")[0] for note in notes(Config(), [published], {})] == [warning]
    alike = [good | {"problem": "1/2?", "answer": gold} for gold in ("0.5", "1/2")]
    assert (local(tmp_path, *alike).repeated, local(tmp_path, *alike).contrary) == (1, 0)  # one number
    # The same question about another image is another question.
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(picture(i, 3, 3))
    shown = [good | {"image": f"{i}.png", "answer": str(i)} for i in range(2)]
    assert local(tmp_path, *shown, images=["image"]).repeated == 0
    with pytest.raises(ValueError, match="asks the same as"):
        local(tmp_path, *shown)


def test_a_byte_order_mark_is_no_part_of_the_first_row_and_a_cut_file_is_one_sentence(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good).encode())
    assert load("mine", BenchmarkConfig(path=str(path))).problems[0].question == "1+1?"
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(good).encode() * 100)[:40])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: the file is damaged or truncated after line 0"):
        load("cut", BenchmarkConfig(path=str(cut)))


def test_a_compressed_file_is_read_as_it_is(tmp_path):
    lines = json.dumps(good)
    (tmp_path / "plain.jsonl").write_text(lines)
    (tmp_path / "small.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    plain, small = (
        load("plain", BenchmarkConfig(path="x"), tmp_path),
        load("small", BenchmarkConfig(path="x"), tmp_path),
    )
    named = load("small", BenchmarkConfig(path=str(tmp_path / "small.jsonl.gz")))
    assert plain.sha256 == small.sha256 == named.sha256 and plain.problems == small.problems
    with pytest.raises(ValueError, match="no benchmark other in .*, which has plain, small"):
        load("other", BenchmarkConfig(path="x"), tmp_path)


def test_unknown_benchmarks(tmp_path):
    (tmp_path / "known.jsonl").write_text(json.dumps(good))
    with pytest.raises(ValueError, match="no benchmark other in .*, which has known"):
        load("other", BenchmarkConfig(path="x"), tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        load("other", BenchmarkConfig(path=str(tmp_path / "other.jsonl")))
    with pytest.raises(ValueError, match="there is no embedded benchmark other: choose one of tiny_add"):
        load("other", BenchmarkConfig(path="embedded"))
    with pytest.raises(ValueError, match="benchmark other: .* cannot be read"):
        load("other", BenchmarkConfig(path=str(tmp_path / "missing.parquet")))


def test_a_library_that_fails_without_a_word_is_named_by_its_error(monkeypatch):
    """Of a data set, a benchmark and a tokenizer."""

    def fail(*_, **__):
        raise RuntimeError(" \n ")

    monkeypatch.setattr(hub_datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"benchmark mine: a/b \(split test\) cannot be read \(RuntimeError\); check"):
        load("mine", BenchmarkConfig(path="a/b"))
    with pytest.raises(ValueError, match=r"the data set a/b cannot be read \(RuntimeError\): check dataset.path"):
        table.load(DatasetConfig(path="a/b"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ValueError, match="no tokenizer can be loaded from a/b: RuntimeError$"):
        _tokenizer(Config(model=ModelConfig(path="a/b")), "a/b")
