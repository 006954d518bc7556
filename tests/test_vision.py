"""Benchmarks with images on tiny random vision-language models of two architectures."""

import json
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import datasets
import pytest
import torch
from endpoint import Endpoint
from PIL import Image
from tiny_models import random_toy_model
from transformers import AutoModelForImageTextToText, AutoTokenizer
from vision_models import IMAGE, llava, picture, qwen2_5_vl

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Device
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Engine, EvalConfig, ModelConfig
from losslab.data import processors
from losslab.evaluation import api_engine, prompting, protocol, requests, transformers_engine
from losslab.evaluation.benchmarks import Benchmark, load
from losslab.evaluation.engine_interface import TOO_LONG, Completion, Job, Request, Sampling
from losslab.evaluation.evaluate import answer, check, check_images
from losslab.evaluation.images import data_url, opened, thumbnail
from losslab.evaluation.prompting import Prompt
from losslab.evaluation.write_scores import MOST, Subject, publish

SIZES = [(28, 28), (84, 56), (56, 28), (28, 84), (56, 56)]  # pixels of the first image of each problem
TOKENS = 10


@pytest.fixture(scope="module", params=[qwen2_5_vl, llava])
def model(request, tmp_path_factory) -> Path:
    return request.param(tmp_path_factory.mktemp("model"))


def rows(folder: Path) -> list[dict]:
    """Problems with an image, one with two between its words, and one with none."""
    made = []
    for i, size in enumerate(SIZES):
        (folder / f"{i}.png").write_bytes(picture(i, *size))
        made.append({"question": f"{i}+{'1' * (3 * i + 1)}=?", "answer": str(i), "image": f"{i}.png"})
    made[1] = {"question": "1<image>+<image>1=?", "answer": "1", "image": ["1.png", "0.png"]}
    return [*made, {"question": "2+2=?", "answer": "4", "image": ""}]


def benchmark(folder: Path, changed: list[dict] | None = None, **options) -> Benchmark:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (changed or rows(folder))))
    return load("mine", BenchmarkConfig(path=str(path), **{"images": ["image"], **options}))


def config(model: Path | str, **machine) -> Config:
    sampling = EvalConfig(samples=1, temperature=0.0, max_new_tokens=TOKENS)
    machine = {"engine": Engine.transformers, "device": Device.cpu, "threads": 1, **machine}
    return Config(model=ModelConfig(path=str(model)), eval=sampling, machine=MachineConfig(**machine))


def asked(model: Path, chosen: Benchmark) -> list[Request]:
    """One request for each problem, as the evaluation makes them."""
    cfg, tokenizer = config(model), AutoTokenizer.from_pretrained(model)
    prompt = Prompt.of(cfg, chosen)
    prompts = {("mine", p.index): prompt.text(p.asked, tokenizer, {}, len(p.images)) for p in chosen.problems}
    subject = Subject(cfg, str(model), tokenizer, {}, [chosen], {"mine": prompt}, prompts, None, [], True)
    return requests.to_model(subject, [("mine", p.index, 0) for p in chosen.problems], list(range(100, 106)))


def run(model: Path, wanted: list[Request], temperature: float = 0.0) -> dict[int, Completion]:
    sampling = Sampling(temperature, 1.0, TOKENS, stop_ids=(1,))
    lists = transformers_engine.run(Job(str(model), sampling, threads=1, device=Device.cpu), wanted, on_gpu=False)
    return {completion.key: completion for completions in lists for completion in completions}


def test_greedy_answers_are_those_of_generate_on_each_row_alone(model, tmp_path):
    chosen = benchmark(tmp_path)
    answers = run(model, asked(model, chosen))
    processor, whole = processors.load(str(model)), AutoModelForImageTextToText.from_pretrained(model)
    for problem, row in zip(chosen.problems, rows(tmp_path), strict=True):
        texts = [{"type": "text", "text": text} for text in problem.question.split("<image>")]
        values = [{"type": "image"}] * len(problem.images)
        content = [texts[0], *values[:1], texts[1], *values[1:], texts[2]] if len(texts) == 3 else [*values, *texts]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        names = [name for name in (row["image"] if isinstance(row["image"], list) else [row["image"]]) if name]
        pictures = {"images": [Image.open(tmp_path / name) for name in names]} if names else {}
        inputs = processor(text=text, add_special_tokens=False, return_tensors="pt", **pictures)
        with torch.inference_mode():
            output = whole.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=1, pad_token_id=0)
        ids = output[0, inputs["input_ids"].shape[1] :].tolist()
        expected = processor.tokenizer.decode(ids[: ids.index(1)] if 1 in ids else ids, skip_special_tokens=True)
        assert answers[problem.index].text == expected
    assert (
        len({completion.text for completion in answers.values()}) == 6
    )  # no two images, and no texts, are taken alike


def test_a_sample_does_not_depend_on_its_batch_and_its_padding(model, tmp_path):
    wanted = asked(model, benchmark(tmp_path))
    together = run(model, wanted, temperature=1.0)
    alone = [run(model, [request], temperature=1.0) for request in wanted[::-1]]
    assert together == {key: completion for one in alone for key, completion in one.items()}


def test_arguments_of_the_processor_reach_it(tmp_path):
    """784 pixels are one token of Qwen2.5-VL, and an image of 84 x 56 is six without a limit."""
    model, chosen = qwen2_5_vl(tmp_path / "model"), benchmark(tmp_path, rows(tmp_path)[1:2])
    (request,) = asked(model, chosen)
    processor = transformers_engine.load_processor(Job(str(model), Sampling(0.0, 1.0, 1)))
    lengths = [
        transformers_engine.processed([request], processor, arguments)["input_ids"].shape[1]
        for arguments in ({}, {"max_pixels": 28 * 28, "min_pixels": 28 * 28})
    ]
    assert lengths[0] - lengths[1] == 5
    cfg = config(model)
    cfg.model.image_arguments = {"max_pixels": 784}
    subject = Subject(cfg, str(model), AutoTokenizer.from_pretrained(model), {}, [chosen], {}, {}, None, [], True)
    assert requests.job(subject, Sampling(0.0, 1.0, 1)).image_arguments == {"max_pixels": 784}
    described = protocol.describe(cfg, str(model), subject.tokenizer, Engine.transformers, [chosen])
    assert described["image_arguments"] == {"max_pixels": 784}


def test_a_prompt_that_its_image_makes_too_long_is_told(model, tmp_path):
    """The text has 127 of 128 tokens with one for the image, which takes two at least."""
    long = [{"question": "1" * 120, "answer": "1", "image": "2.png"}, *rows(tmp_path)[3:4]]
    wanted = asked(model, benchmark(tmp_path, long))
    spare = 127 - len(wanted[0].prompt)
    long[0]["question"] += "1" * spare
    wanted = asked(model, benchmark(tmp_path, long))
    assert len(wanted) == 2 and len(wanted[0].prompt) == 127
    answers = run(model, wanted)
    assert answers[0] == Completion(0, "", 0, TOO_LONG)
    assert answers[1] == run(model, wanted[1:])[1]


def test_records_have_thumbnails_and_prompts(model, tmp_path):
    """All samples are there, so that no engine starts: what is asked, and what is made of the answers."""
    chosen, folder = benchmark(tmp_path, instruction="Say: {problem}"), tmp_path / "scores"
    folder.mkdir()
    sample = {"sample": 0, "finish_reason": "stop", "tokens": 1, "seed": 1}
    lines = [json.dumps({"index": i, "text": f"\\boxed{{{i % 5}}}", **sample}) + "\n" for i in range(6)]
    (folder / "mine.samples.jsonl").write_text("".join(lines))
    cfg = config(model)
    cfg.benchmark = {"mine": BenchmarkConfig(images=["image"])}
    result = publish(*answer(cfg, str(model), folder, [chosen]))
    records = [json.loads(line) for line in (folder / "mine.jsonl").read_text().splitlines()]
    assert [len(record.get("thumbnails", [])) for record in records] == [1, 2, 1, 1, 1, 0] and len(records) < MOST
    image = IMAGE if "llava" in (model / "config.json").read_text() else f"<|vision_start|>{IMAGE}<|vision_end|>"
    assert records[0]["prompt"] == f"<|user|>{image}Say: 0+1=?<|end|><|assistant|>"
    assert records[1]["prompt"] == f"<|user|>Say: 1{image}+{image}1=?<|end|><|assistant|>"
    assert records[5]["prompt"] == "<|user|>Say: 2+2=?<|end|><|assistant|>" and records[0]["question"] == "0+1=?"
    assert result["benchmarks"]["mine"]["official"] == pytest.approx(500 / 6) and result["engine"] == "transformers"
    assert "chat template" not in " ".join(result["warnings"])
    page = (folder / "samples.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6 and "img-src data:" in page
    (tmp_path / "0.png").write_bytes(picture(9, 28, 28))
    about = BenchmarkConfig(path=str(tmp_path / "mine.jsonl"), images=["image"], instruction="Say: {problem}")
    with pytest.raises(ValueError, match="holds samples of another protocol"):
        answer(cfg, str(model), folder, [load("mine", about)])


def test_a_text_model_refuses_images_before_it_is_loaded(model, tmp_path):
    text_model = random_toy_model(tmp_path / "text")
    chosen = benchmark(tmp_path)
    sentence = f"{text_model} reads no images, which mine shows: leave it out, or take another model"
    with pytest.raises(ValueError) as caught:
        answer(config(text_model), str(text_model), tmp_path / "scores", [chosen])
    assert str(caught.value) == sentence and not (tmp_path / "scores").exists()
    cfg = config(text_model)
    cfg.benchmark = {"mine": BenchmarkConfig(path=str(tmp_path / "mine.jsonl"), images=["image"])}
    with pytest.raises(ValueError, match="reads no images, which mine shows"):
        check(cfg)
    cfg.machine.engine = Engine.vllm
    with pytest.raises(
        ValueError, match="machine.engine=vllm is given no images here: set machine.engine=transformers"
    ):
        check(cfg)
    cfg = config(model)
    assert check_images(cfg, str(model), [chosen])
    cfg.model.eval_prompt = "Question: {problem}"
    with pytest.raises(ValueError, match=r"only a chat template knows: set benchmark\.mine\.prompt=chat"):
        check_images(cfg, str(model), [chosen])


def test_images_of_every_form_are_read_and_counted_in_the_hash(tmp_path):
    data, first = picture(0, 28, 28), benchmark(tmp_path)
    assert [len(problem.images) for problem in first.problems] == [1, 2, 1, 1, 1, 0] and first.images
    assert first.problems[0].images == (data,) and first.problems[1].images == (picture(1, 84, 56), data)
    (tmp_path / "0.png").rename(tmp_path / "other.png")
    moved = rows(tmp_path)
    moved[0]["image"] = {"bytes": None, "path": "other.png"}
    assert benchmark(tmp_path, moved).sha256 == first.sha256  # names of files do not count
    (tmp_path / "other.png").write_bytes(picture(7, 28, 28))
    assert benchmark(tmp_path, moved).sha256 != first.sha256
    asked_otherwise = benchmark(tmp_path, moved, instruction="{problem} Think.")
    assert asked_otherwise.problems[0].asked == "0+1=? Think." and asked_otherwise.problems[0].question == "0+1=?"
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"),
         "image": datasets.Image(), "more": datasets.List(datasets.Image())}
    )  # fmt: skip
    columns = {"question": ["a?"], "answer": ["1"], "image": [{"bytes": data, "path": None}]}
    table = datasets.Dataset.from_dict(columns | {"more": [[{"bytes": data, "path": None}] * 2]}, features)
    table.to_parquet(tmp_path / "mine.parquet")
    loaded = load("mine", BenchmarkConfig(path=str(tmp_path / "mine.parquet"), images=["image", "more"]))
    assert loaded.problems[0].images == (data,) * 3


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({"image": "gone.png"}, {}, r"mine\.jsonl:1 has an image gone\.png that is not there"),
        ({"image": "mine.jsonl"}, {}, "has an image mine.jsonl that cannot be decoded"),
        ({"image": "https://x.org/a.png"}, {}, "which is not loaded"),
        ({"question": "<image> and <image>"}, {}, "has 1 images for 2 <image> in its text"),
        ({}, {"images": ["picture"]}, "no column 'picture' of images; the row has question, answer, image"),
        ({}, {"instruction": "{hint}"}, "has no text in `hint`"),
        ({}, {"instruction": "{problem} {hint}"}, "benchmark mine has no column 'hint' but .*'problem', 'question'"),
    ],
)
def test_a_row_whose_images_are_broken_is_a_sentence(change, options, sentence, tmp_path):
    broken = rows(tmp_path)
    broken[0] |= change
    with pytest.raises(ValueError, match=sentence):
        benchmark(tmp_path, broken, **options)


def test_images_that_no_key_names_are_told(tmp_path):
    chosen = benchmark(tmp_path, images=[])
    told = "mine: 5 problems have images in image, which are not shown: name it in benchmark.mine.images"
    assert not chosen.images and prompting.notes(config("any"), [chosen], {}) == [told]
    assert benchmark(tmp_path).unshown == {}


def test_a_benchmark_without_a_single_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="benchmark mine has no image in the columns image: name others, or none"):
        benchmark(tmp_path, [{"question": "2+2=?", "answer": "4", "image": None}])


def test_thumbnails_are_small_and_data_urls_of_formats_that_endpoints_know():
    large = picture(3, 1200, 700)
    assert len(thumbnail(large)) < 20_000 and thumbnail(large).startswith("data:image/jpeg;base64,/9j/")
    assert data_url(large).startswith("data:image/png;base64,iVBOR")
    assert data_url(picture(3, 8, 8, "JPEG")).startswith("data:image/jpeg;base64,/9j/")
    assert data_url(picture(3, 8, 8, "BMP")).startswith("data:image/png;base64,iVBOR")
    assert opened(large).size == (1200, 700)


def test_an_endpoint_gets_images_as_data_urls_in_their_places(tmp_path):
    bodies = []

    class Served(Endpoint):
        model = "vl"

        def answer(self, body: dict) -> str:
            bodies.append(body)
            return "\\boxed{1}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    Thread(target=server.serve_forever, daemon=True).start()
    chosen, address = benchmark(tmp_path), f"http://127.0.0.1:{server.server_port}/v1"
    cfg = config("vl", engine=Engine.api, api_url=address, api_concurrency=1)
    prompt = Prompt.of(cfg, chosen)
    prompts = {("mine", p.index): prompt.asked(Prompt.placed(p.asked, len(p.images))) for p in chosen.problems}
    subject = Subject(cfg, "vl", None, {}, [chosen], {"mine": prompt}, prompts, None, [], True)
    wanted = requests.to_endpoint(subject, [("mine", i, 0) for i in range(6)], [None] * 6)
    try:
        lists = list(api_engine.run(requests.job(subject, Sampling(0.0, 1.0, TOKENS)), wanted, False))
    finally:
        server.shutdown()
        server.server_close()
    assert [completion.text for completions in lists for completion in completions] == ["\\boxed{1}"] * 6
    content = [body["messages"][0]["content"] for body in bodies]
    urls = [
        [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in p.images] for p in chosen.problems
    ]
    assert [*urls[0], {"type": "text", "text": "0+1=?"}] in content
    between = [{"type": "text", "text": part} for part in ("1", "+", "1=?")]
    assert [between[0], urls[1][0], between[1], urls[1][1], between[2]] in content
    assert "2+2=?" in content and len(bodies) == 6
