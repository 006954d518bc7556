"""Problems of a benchmark with their gold answers, from the hub, from local files, or from the embedded toy task."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.choices import Rules
from losslab.config.messages import first_line
from losslab.config.schema import EMBEDDED
from losslab.data import hub_datasets, read_files
from losslab.data.images import looks_like_images, parts
from losslab.data.messages import Unusable, checked
from losslab.data.row_templates import check, fill, names_in
from losslab.evaluation import golds, images, mastery, versions
from losslab.grading import options

IDENTIFIERS = ("unique_id", "id", "idx")
ENDINGS = (".jsonl", ".jsonl.gz")
_hashes: dict[str, str] = {}  # of benchmarks that `changed` has read, since all cells of a sweep ask for the same


@dataclass(frozen=True)
class Problem:
    index: int  # position in the benchmark
    question: str
    gold_official: str  # as the official evaluation scores it, its faults included; empty for one MATH500 problem
    gold: str  # as the authors meant it; for exact match, a line for each right answer
    groups: dict[str, str] = field(default_factory=dict, hash=False)  # its value of each column of the breakdown
    request: str = ""  # the question as it is put to the model, where that is more than `question`
    images: tuple[bytes, ...] = field(default=(), repr=False)  # encoded
    original: str = field(default="", hash=False)  # what it is a version of, where there are several
    step: mastery.Step | None = None  # of the multi-step problem that it is a question of
    own: str | None = None  # of a task's document, the question alone, where `question` is the prompt; None: not known

    @property
    def asked(self) -> str:
        """What is put to the model in the place of the problem."""
        return self.request or self.question


@dataclass(frozen=True)
class Benchmark:
    name: str
    problems: list[Problem]
    sha256: str  # of the questions, golds and what else the benchmark asks for, wherever they come from
    rules: Rules = Rules.general  # how answers are read and compared
    prompt: str | None = None  # in place of the model's
    stop: tuple[str, ...] = ()  # besides the model's
    examples: tuple[tuple[str, str], ...] = ()  # worked ones, problem and answer, in place of the prompt's
    task: str | None = None  # of lm-evaluation-harness, which then asks and judges
    unshown: dict[str, int] = field(
        default_factory=dict, hash=False
    )  # by column of images that no key names, its problems
    repeated: int = 0  # problems that ask what an earlier one asks
    contrary: int = 0  # of these, those with another gold answer

    @property
    def images(self) -> bool:
        """Whether some problem shows an image."""
        return any(problem.images for problem in self.problems)

    @property
    def questions(self) -> list[str] | None:
        """What rows of training are searched for; None where that is not known, or says little, as beside images."""
        texts = [p.question if self.task is None else p.own for p in self.problems]
        known = [text for text in texts if text is not None]
        return None if self.images or len(known) < len(texts) else known

    @classmethod
    def of(cls, name: str, problems: list[Problem], about: BenchmarkConfig) -> "Benchmark":
        exact = ["exact"] if about.rules == Rules.exact_match else []
        content: list[Any] = [[p.question, p.gold_official, p.gold, *exact] for p in problems]
        if about.prompt is not None or about.stop:
            content.append([about.prompt, about.stop])
        examples = tuple((example.problem, example.answer) for example in about.examples)
        if examples:
            content.append({"examples": examples})
        named = name if name in set(Rules) else Rules.general  # the rules that earlier versions took
        if about.rules not in (named, Rules.exact_match):
            content.append(str(about.rules))
        if requests := [p.request for p in problems if p.request]:
            content.append({"requests": requests})
        if any(p.images for p in problems):
            content.append({"images": [[hashlib.sha256(image).hexdigest() for image in p.images] for p in problems]})
        sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return cls(name, problems, sha256, about.rules, about.prompt, tuple(about.stop), examples)


def changed(stored: Mapping[str, str], about: Mapping[str, BenchmarkConfig], data: str | None) -> list[str]:
    """The benchmarks that are no longer what they were, by the `sha256` of each; one that only the hub or lm_eval has,
    or whose file is gone, is taken to be the same.
    """
    names = []
    for name, cfg in about.items():
        if (
            name in stored
            and cfg.task is None
            and (data is not None or cfg.path == EMBEDDED or Path(cfg.path).is_file())
        ):
            key = f"{name} {cfg} {data}"
            with suppress(ValueError, OSError):
                if key not in _hashes:
                    _hashes[key] = load(name, cfg, data).sha256
                if _hashes[key] != stored[name]:
                    names.append(name)
    return names


def load(name: str, cfg: BenchmarkConfig, data: str | Path | None = None) -> Benchmark:
    """The problems of a benchmark, in the order of its file.

    With `data`, a folder, they come from its `<name>.jsonl` or `.jsonl.gz`, in the format of the official evaluation or
    of the hub; else from `cfg.path`.

    Raises:
        ValueError: an unknown benchmark, an instruction with a column that no row has, or a row that is malformed, has
            no question or gold, or a broken image, and without `cfg.rows` two golds of one question.
    """
    problems: list[Problem] = []
    places: dict[str, str] = {}
    standing: list[str] = []  # where each problem stands
    unshown, columns = Counter[str](), dict.fromkeys(["problem"])
    for place, row in _rows(name, cfg, data):
        _check_texts(place, row)
        columns |= dict.fromkeys(row)
        unshown.update(column for column, value in row.items() if not cfg.images and looks_like_images(value))
        named = [column for column in IDENTIFIERS if row.get(column) is not None]  # in a table, some may be null
        for identifier in [f"{column} {row[column]!r}" for column in named[:1]]:
            if identifier in places:
                raise ValueError(f"{place}: {identifier} is also that of {places[identifier]}; remove one of the two")
            places[identifier] = place
        problem = _problem(len(problems), place, row, cfg)
        problem = replace(problem, **_shown(place, row, problem.question, cfg, _folder(name, cfg, data)))
        groups = _groups(place, row, cfg.breakdown)
        problems.append(replace(problem, groups=groups, original=versions.original(place, row, cfg)))
        standing.append(place)
    if not problems:
        raise ValueError(f"benchmark {name} is empty")
    if cfg.instruction is not None:  # of rows of JSON lines, some may lack a column
        check(cfg.instruction, columns, f"benchmark {name}")
    if cfg.rows is not None and len(problems) != cfg.rows:
        raise ValueError(f"benchmark {name} has {len(problems)} problems in place of {cfg.rows}; this is another set")
    mastery.check(name, [problem.step for problem in problems if problem.step])
    if cfg.images and not any(problem.images for problem in problems):
        raise ValueError(f"benchmark {name} has no image in the columns {', '.join(cfg.images)}: name others, or none")
    repeated, contrary = _repetitions(problems, standing, published=cfg.rows is not None)
    loaded = Benchmark.of(name, problems, cfg)
    return replace(loaded, unshown=dict(unshown), repeated=repeated, contrary=contrary)


def source(cfg: BenchmarkConfig, data: str | None) -> dict[str, Any]:
    """Where the problems of a benchmark come from, for the record of its scores: a data set of the hub, or here."""
    if cfg.task is not None:
        return {"path": cfg.path}
    if data is not None or cfg.path == EMBEDDED or cfg.path.endswith((*ENDINGS, ".parquet")) or Path(cfg.path).exists():
        return {"local": True}
    return {"path": cfg.path, "revision": cfg.revision, "subset": cfg.subset}


def _check_texts(place: str, row: dict[str, Any]) -> None:
    """Raise ValueError for half of a surrogate pair, which JSON can hold and no prompt and no record."""
    try:
        for column, value in row.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    checked(text, column)
    except Unusable as error:
        raise ValueError(f"{place} {error}") from None


def _repetitions(problems: Sequence[Problem], places: Sequence[str], published: bool) -> tuple[int, int]:
    """How many problems ask what an earlier one asks, and how many of these have another gold answer.

    Raises ValueError for such a gold, unless the set is a published one, which is taken with its faults.
    """
    first: dict[tuple[str, tuple[bytes, ...]], int] = {}
    repeated = [(first.setdefault((problem.asked, problem.images), i), i) for i, problem in enumerate(problems)]
    repeated = [(earlier, later) for earlier, later in repeated if earlier != later]
    contrary = [
        (earlier, later) for earlier, later in repeated if not golds.alike(problems[earlier].gold, problems[later].gold)
    ]
    if contrary and not published:
        earlier, later = contrary[0]
        raise ValueError(
            f"{places[later]} asks the same as {places[earlier]}, with the gold answer {problems[later].gold!r} in "
            f"place of {problems[earlier].gold!r}: correct or remove one of the two, or set `rows` to the size of the "
            "set, which takes it as it is"
        )
    return len(repeated), len(contrary)


def _shown(place: str, row: dict[str, Any], question: str, cfg: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    """What of a problem is put to the model besides its question, by the fields of `Problem`."""
    if missing := [column for column in cfg.images if column not in row]:
        raise ValueError(f"{place}: no column {missing[0]!r} of images; the row has {', '.join(row)}")
    try:
        request = "" if cfg.instruction is None else requested(cfg.instruction, row, question)
        pictures = images.of_columns(row, cfg.images, folder)
        if pictures:
            parts(request or question, pictures)  # refuses other than as many places as images
        return {"request": request, "images": pictures}
    except Unusable as error:
        raise ValueError(f"{place} {error}") from None


def requested(instruction: str, row: dict[str, Any], question: str) -> str:
    """An instruction with the question and other columns of the row in it; a list is one of options, a line each."""
    lists = {}
    for name in names_in(instruction):
        if isinstance(value := row.get(name), list):
            try:
                lists[name] = "\n".join(options.lines(value))
            except ValueError as error:
                raise Unusable(f"has {error} in `{name}`") from None
    return fill(instruction, row | lists | {"problem": question})


def _folder(name: str, cfg: BenchmarkConfig, data: str | Path | None) -> Path:
    """From which paths of images are relative: that of the file."""
    return Path(data) if data is not None else Path(cfg.path).parent if Path(cfg.path).is_file() else Path()


def _problem(index: int, place: str, row: dict[str, Any], cfg: BenchmarkConfig) -> Problem:
    asked = golds.question(place, row, cfg)
    gold_official, gold = golds.of(place, row, cfg)
    step = mastery.step(place, row) if cfg.rules == Rules.wemath else None
    return Problem(index, asked, gold_official, gold, step=step)


def _groups(place: str, row: dict[str, Any], columns: list[str]) -> dict[str, str]:
    """The row's values of those columns that it has."""
    values = {column: row[column] for column in columns if row.get(column) is not None}
    for column, value in values.items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"{place}: the column {column!r} of the breakdown holds no text or number")
    return {column: f"{value:g}" if isinstance(value, float) else str(value) for column, value in values.items()}


def _rows(name: str, cfg: BenchmarkConfig, data: str | Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, and where it stands for messages."""
    if data is not None:
        folder = Path(data)
        files = [file for ending in ENDINGS if (file := folder / f"{name}{ending}").is_file()]
        if not files:
            there = sorted({path.name.partition(".")[0] for ending in ENDINGS for path in folder.glob(f"*{ending}")})
            raise ValueError(f"no benchmark {name} in {folder}, which has {', '.join(there) or 'no .jsonl file'}")
        yield from _jsonl(files[0])
    elif cfg.path == EMBEDDED:
        yield from ((f"{name}, problem {i}", row) for i, row in enumerate(_embedded(name)))
    elif cfg.path.endswith(ENDINGS):
        if not Path(cfg.path).is_file():
            raise ValueError(f"benchmark {name}: there is no file {cfg.path}")
        yield from _jsonl(Path(cfg.path))
    else:
        yield from _table(name, cfg)


def _embedded(name: str) -> Sequence[dict[str, Any]]:
    from losslab.data import toy_pictures, toy_programs, toy_task

    if name in toy_programs.PROGRAMS:
        return toy_programs.problems(name)
    if name in toy_pictures.PICTURES:
        return toy_pictures.problems(name)
    return toy_task.problems(name)


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_files.rows(path):
        yield f"{path}:{number}", row


def _table(name: str, cfg: BenchmarkConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """A parquet file or a data set of the hub."""
    try:
        if cfg.path.endswith(".parquet"):
            import datasets

            table = datasets.load_dataset("parquet", data_files=cfg.path, split="train")
        else:
            table = hub_datasets.load_dataset(cfg.path, cfg.subset, split=cfg.split, revision=cfg.revision)
        table = images.undecoded(table)
    except Exception as error:  # the library raises many kinds, most of them for a name, a split or the network
        raise ValueError(
            f"benchmark {name}: {cfg.path} (split {cfg.split}) cannot be read ({first_line(error)}); check its "
            "name, or set eval.data to a folder with local files"
        ) from None
    yield from ((f"{cfg.path}, row {i}", dict(row)) for i, row in enumerate(table))
