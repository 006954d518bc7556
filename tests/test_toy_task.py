"""The embedded world: what its texts say is true of them."""

import hashlib
import json
import random
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from losslab.data import toy_task
from losslab.files.content import TOY_TASK

OPERANDS = re.compile(r"\d+")
STEP = re.compile(r"(\d)[+,](\d)[+,]([01])[=:](\d+)")


def operands(problem: str) -> tuple[int, int]:
    a, b = map(int, OPERANDS.findall(problem))
    return a, b


def boxed(solution: str) -> int:
    (result,) = re.findall(r"\\boxed\{(\d+)\}", solution)
    return int(result)


def wrong(step: tuple[str, ...]) -> bool:
    x, y, carry, total = map(int, step)
    return x + y + carry != total


def exact() -> random.Random:
    return random.Random(0)


def test_styles_literally():
    assert toy_task.columns(37, 185, 0.0, exact()) == "7+5+0=12\n3+8+1=12\n0+1+1=2\n\\boxed{222}"
    assert toy_task.columns(950, 86, 0.0, exact()) == "0+6+0=6\n5+8+0=13\n9+0+1=10\n\\boxed{1036}"
    assert toy_task.unboxed(12, 34, 0.0, exact()) == "2+4+0=6\n1+3+0=4\nIt is 46."
    assert toy_task.terse(99, 99, 0.0, exact()) == "9,9,0:18; 9,9,1:19; so 198."
    assert re.fullmatch(r"\\boxed\{\d{3}\}", toy_task.at_once(37, 185, 0.0, exact()))


def test_a_wrong_step_is_carried_on():
    for seed in range(50):
        steps, result = toy_task.work(407, 88, 1.0, random.Random(seed))
        assert [step[:2] for step in steps] == [(7, 8), (0, 8), (4, 0)]
        assert [step[2] for step in steps] == [0] + [step[3] // 10 for step in steps[:-1]]
        assert all(wrong(tuple(map(str, step))) and 0 <= step[3] < 20 for step in steps)
        assert result == sum(step[3] % 10 * 10**i for i, step in enumerate(steps)) + steps[-1][3] // 10 * 1000


def test_demonstrations_without_a_wrong_step_are_right():
    right = 0
    rows = toy_task.demonstrations(2000, 3)
    for row in rows:
        steps = STEP.findall(row["solution"])
        assert re.fullmatch(r"(\d\+\d\+[01]=\d+\n)+\\boxed\{\d+\}", row["solution"])
        assert int(row["answer"]) == sum(operands(row["problem"]))
        if not any(map(wrong, steps)):
            assert boxed(row["solution"]) == sum(operands(row["problem"]))
            right += 1
    # operands of 2 and 3 digits: a quarter of the sums has 2 columns, the others have 3
    expected = 0.25 * 0.9**2 + 0.75 * 0.9**3
    assert right / len(rows) == pytest.approx(expected, abs=0.03)


def test_noise_is_the_declared_one():
    for rows, noise in (
        (toy_task.demonstrations(4000, 0), toy_task.DEMONSTRATION_NOISE),
        (toy_task.corpus(6000, 0), toy_task.CORPUS_NOISE),
    ):
        steps = [wrong(step) for row in rows for step in STEP.findall(row["solution"])]
        assert sum(steps) / len(steps) == pytest.approx(noise, abs=0.01)


def test_corpus_has_the_declared_mixture():
    rows = toy_task.corpus(6000, 1)
    solutions = [row["solution"] for row in rows]
    kinds = {
        toy_task.columns: [s.startswith("\\") is False and "\\boxed" in s for s in solutions],
        toy_task.unboxed: ["It is" in s for s in solutions],
        toy_task.terse: ["so " in s for s in solutions],
        toy_task.at_once: [s.startswith("\\boxed") for s in solutions],
    }
    for style, share in zip(toy_task.STYLES, toy_task.SHARES, strict=True):
        assert sum(kinds[style]) / len(rows) == pytest.approx(share, abs=0.02)
    guesses = [row for row, alone in zip(rows, kinds[toy_task.at_once], strict=True) if alone]
    assert sum(boxed(row["solution"]) == sum(operands(row["problem"])) for row in guesses) / len(guesses) < 0.5
    assert {len(str(n)) for row in rows for n in operands(row["problem"])} == {2, 3, 4}


def test_benchmarks_are_right_and_different():
    for name, (_, digits) in toy_task.SUMS.items():
        rows = toy_task.problems(name)
        assert len({row["question"] for row in rows}) == len(rows) == toy_task.PROBLEMS
        for row in rows:
            assert int(row["answer"]) == sum(operands(row["question"]))
            assert {len(str(n)) for n in operands(row["question"])} <= set(digits)
    with pytest.raises(ValueError, match="tiny_mul.*tiny_add, tiny_word, tiny_long, tiny_facts"):
        toy_task.problems("tiny_mul")


def test_benchmarks_are_held_out():
    trained = {
        tuple(sorted(operands(row["problem"]))) for row in toy_task.corpus(20000, 0) + toy_task.demonstrations(20000, 0)
    }
    tested = {tuple(sorted(operands(row["question"]))) for name in toy_task.SUMS for row in toy_task.problems(name)}
    assert len(trained) > 10000 and not trained & tested
    assert toy_task.held_out(12, 345) == toy_task.held_out(345, 12)


def test_benchmark_wording_and_length_are_not_in_the_demonstrations():
    problems = [row["problem"] for row in toy_task.demonstrations(5000, 0)]
    assert not any("What" in problem for problem in problems)
    assert max(max(operands(problem)) for problem in problems) < 1000


def test_traces_correct_themselves():
    again = 0
    rows = toy_task.traces(2000, 0)
    for row in rows:
        lines = row["solution"].splitlines()
        steps = [(line.startswith("wait, "), *map(int, STEP.search(line).groups())) for line in lines[:-1]]
        for (_, x, y, carry, total), after in zip(steps, [*steps[1:], (False,)], strict=True):
            assert after[0] == (x + y + carry != total)  # a wrong step, and no other, is followed by its correction
        again += sum(step[0] for step in steps)
        assert boxed(row["solution"]) == int(row["answer"]) == sum(operands(row["problem"]))
    columns = sum(len(row["solution"].splitlines()) - 1 for row in rows) - again
    assert again / columns == pytest.approx(toy_task.DEMONSTRATION_NOISE, abs=0.01)


def test_answers_of_noisy_demonstrations_are_right():
    rows = toy_task.demonstrations(500, 1)
    assert all(int(row["answer"]) == sum(operands(row["problem"])) for row in rows)
    assert any(boxed(row["solution"]) != int(row["answer"]) for row in rows)


def test_facts_are_asked_in_another_wording():
    known = toy_task.codes()
    rows, asked = toy_task.facts(4000, 0), toy_task.problems(toy_task.FACTS)
    assert len(known) == toy_task.PROBLEMS and all(100 <= int(code) <= 999 for code in known.values())
    for row in rows:
        (word,) = [word for word in known if word in row["problem"]]
        assert row["solution"] == f"\\boxed{{{known[word]}}}" and row["answer"] == known[word]
    assert {row["problem"] for row in rows}.isdisjoint(row["question"] for row in asked)
    assert {row["answer"] for row in asked} == set(known.values())


def test_functions_of_the_seed():
    for make in (toy_task.corpus, toy_task.demonstrations, toy_task.traces, toy_task.facts):
        assert make(50, 7) == make(50, 7) == make(80, 7)[:50] != make(50, 8)
    state = random.getstate()
    toy_task.corpus(10, 0), toy_task.problems("tiny_add")
    assert random.getstate() == state


GOLDEN_DEMONSTRATIONS = [
    {"problem": "Add 597 to 609.", "solution": "7+9+0=16\n9+0+1=10\n5+6+1=12\n\\boxed{1206}", "answer": "1206"},
    {"problem": "Add 460 to 87.", "solution": "0+7+0=7\n6+8+0=14\n4+0+1=5\n\\boxed{547}", "answer": "547"},
]
GOLDEN_CORPUS = [
    {"problem": "What is 278 plus 995?", "solution": "8+5+0=13\n7+9+1=17\n2+9+1=12\n\\boxed{1273}", "answer": "1273"},
    {"problem": "What is 328 plus 152?", "solution": "8+2+0=10\n2+5+1=8\n3+1+0=4\nIt is 480.", "answer": "480"},
]
GOLDEN_PROBLEMS = [
    {"question": "188+14=?", "answer": "202"},
    {"question": "What is 689 plus 846?", "answer": "1535"},
    {"question": "3587+6568=?", "answer": "10155"},
]


def test_golden_rows():
    """A change of these changes every number that was measured in this world."""
    assert toy_task.demonstrations(2, 0) == GOLDEN_DEMONSTRATIONS
    assert toy_task.corpus(2, 0) == GOLDEN_CORPUS
    assert [toy_task.problems(name)[0] for name in toy_task.SUMS] == GOLDEN_PROBLEMS


def test_tokenizer_round_trip():
    tokenizer = toy_task.tokenizer()
    ascii_text = "\n" + "".join(map(chr, range(32, 127)))
    texts = [ascii_text, "  two  spaces \n\n", r"\boxed{12} \boxed \boxedx{", "it 's , so .", ""]
    texts += [row[key] for row in toy_task.corpus(200, 0) for key in ("problem", "solution")]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text) - (len(toy_task.BOXED) - 1) * text.count(toy_task.BOXED)
    assert tokenizer("ä")["input_ids"] == []
    assert len(tokenizer) == toy_task.model_config().vocab_size


def test_chat_template_and_saved_folder(tmp_path):
    toy_task.tokenizer().save_pretrained(tmp_path)
    toy_task.model_config().save_pretrained(tmp_path)  # transformers chooses the tokenizer's class by the model's type
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a b\n")["input_ids"] == toy_task.tokenizer()("a b\n")["input_ids"]
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2=?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Add.<|end|><|user|>1+2=?<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert len(ids) == 14
    assert (tokenizer.decode([tokenizer.eos_token_id]), tokenizer.eos_token_id) == ("<|end|>", 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Add.1+2=?"


def test_texts_fit_and_model_runs():
    tokenizer, config = toy_task.tokenizer(), toy_task.model_config()
    lengths = [
        len(tokenizer(row["problem"])["input_ids"]) + len(tokenizer(row["solution"])["input_ids"]) + 4
        for row in toy_task.corpus(3000, 0)
    ]
    assert max(lengths) <= 76 < config.max_position_embeddings
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert model.num_parameters() == 167_296
        assert model(torch.zeros(2, 5, dtype=torch.long)).logits.shape == (2, 5, len(toy_task.VOCABULARY))


def test_the_identity_of_the_toy_task_stands_for_what_it_makes():
    """Whoever changes what the toy task makes gives files.content.TOY_TASK another value and renews this hash."""
    makers = (toy_task.corpus, toy_task.demonstrations, toy_task.traces, toy_task.facts)
    model = toy_task.model_config().to_dict()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    made = [
        [make(200, seed) for make in makers for seed in (0, 1)],
        [toy_task.problems(name) for name in (*toy_task.SUMS, "tiny_facts")],
        toy_task.VOCABULARY,
        [model[key] for key in (*sizes, "initializer_range", "rms_norm_eps", "rope_parameters", "tie_word_embeddings")],
    ]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    assert (TOY_TASK[:16], digest[:16]) == ("9c3ffb0277d14bc4", "b5fde02eb01d42e6")
