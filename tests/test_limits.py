"""What a machine, a file or a server makes impossible is one sentence, soon."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from losslab.config import limits
from losslab.config.errors import tell
from losslab.config.limits import check_open_files, time_limit
from losslab.config.messages import of_the_disk
from losslab.data import prompts
from losslab.data.toy_task import tokenizer
from losslab.models import merged_adapters
from losslab.tracking.follow import reason

OPEN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:])))
from losslab.config.limits import check_open_files
try:
    check_open_files()
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (30, 30, "this shell allows 30 open files, but a cell needs 256: raise ulimit -n"),
        (30, 1000, "(256, 1000)"),
        (300, 1000, "(300, 1000)"),
    ],
)
def test_too_few_open_files(soft, hard, said):
    command = [sys.executable, "-c", OPEN, str(soft), str(hard)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == said


def test_every_command_that_starts_processes_looks_at_the_limit(tmp_path):
    """Through the command line: before anything is composed."""
    done = subprocess.run(
        [sys.executable, "-m", "losslab", "plan", "experiment=demo"], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)), timeout=900,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: this shell allows 60 open files, but a cell needs 256: raise ulimit -n\n"
    assert check_open_files() is None


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "x: No space left on device: make room there, or set machine.results"),
        (errno.EMFILE, "Too many open files: raise ulimit -n, or end other programs with open files"),
        (errno.ENOENT, "x: No such file or directory: check the path"),
    ],
)
def test_what_the_system_refuses_says_what_to_do(number, advice):
    assert of_the_disk(OSError(number, os.strerror(number), "x")) == advice


def test_a_limit_of_time_ends_a_loop_and_leaves_no_alarm():
    with pytest.raises(ValueError, match="^it takes too long$"), time_limit(0.05, "it takes too long"):
        while True:
            pass
    with time_limit(60, "never"):
        pass
    assert limits.signal.getitimer(limits.signal.ITIMER_REAL) == (0, 0)
    thread = threading.Thread(target=lambda: time_limit(0.01, "elsewhere").__enter__())
    thread.start()
    thread.join()
    assert limits.signal.getitimer(limits.signal.ITIMER_REAL) == (0, 0)  # a thread hears no signals


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than 0.2 s"),
        ("{{ 'x' * 10**15 }}", r"cannot write a prompt \("),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", r"cannot write a prompt \(maximum recursion"),
        ("{{ raise_exception('no users here') }}", r"cannot write a prompt \(no users here\)"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"cannot write a prompt \("),
        ("{{ 1 / 0 }}", r"cannot write a prompt \(division by zero\)"),
        ("{% if %}", r"cannot write a prompt \("),
    ],
)
def test_a_hostile_chat_template_is_one_sentence(template, message, monkeypatch):
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.2)
    hostile = tokenizer()
    hostile.chat_template = template
    with pytest.raises(ValueError, match=message) as caught:
        prompts.render("chat", "1+1=?", hostile)
    assert "\n" not in str(caught.value)


def test_messages_spell_control_characters_out(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    tell("error: \x1b[2J\x07 hf_abcdefgh é 数\nsecond line")
    assert capsys.readouterr().err == "error: \\x1b[2J\\x07 <HF_TOKEN> é 数\nsecond line\n"


class Refusing(BaseHTTPRequestHandler):
    """A server of W&B that takes no key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"data": None, "errors": [{"message": "permission denied"}]}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_wrong_key_of_the_tracker_is_one_line(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "cell.json").write_text(json.dumps({"identity": "0" * 64}))
    about = {"folder": str(tmp_path), "part": "p", "id": "a", "name": "n", "group": "g", "job_type": "train"}
    about |= {"tags": [], "config": {}, "scores": [], "project": "p", "entity": None, "mode": "online"}
    order = {"tracker": "wandb", "cell": about, "scores": str(tmp_path), "benchmarks": [], "checkpoints": False}
    (tmp_path / "tracker.json").write_text(json.dumps(order))
    key = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "a" * 40}
    environment = os.environ | key | {"WANDB_DIR": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "losslab.tracking.follow", str(tmp_path / "tracker.json")]
    with (tmp_path / "tracker.log").open("w") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, timeout=900)
    server.shutdown()
    assert done.returncode == 1
    said = reason(tmp_path / "tracker.log")
    assert said.startswith("wandb: ") and "permission denied" in said and "a" * 40 not in said
    assert reason(tmp_path / "cell.json").startswith('{"identity"')  # a log without an error


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ([], "names no base model"),
        ({"base_model_name_or_path": "/"}, "the base model / has no config.json: correct base_model_name_or_path"),
    ],
)
def test_an_adapter_of_no_model_is_refused_before_anything_is_read(tmp_path, about, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        merged_adapters.merged(str(tmp_path), tmp_path / "cache")


def test_a_tokenizer_whose_limit_is_no_number_is_refused():
    odd = tokenizer()
    odd.model_max_length = ".."
    with pytest.raises(ValueError, match=r"^the tokenizer of x has model_max_length='\.\.': write a number$"):
        prompts.check_tokenizer(odd, "x")
