"""What leaves this machine with a record: code and results, and neither files nor values that are secret."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from losslab.config.masking import holds_secrets, masked
from losslab.files.atomic import write
from losslab.files.json_files import append_line, write_json
from losslab.records import code_snapshot

TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project with a commit, a changed file, new source files, and files that are nobody's business."""
    root = tmp_path / "project"
    for folder in ("src/losslab", "conf/loss", "experiments", "notes"):
        (root / folder).mkdir(parents=True)
    (root / "src/losslab/loop.py").write_text("before = 1\n")
    (root / "conf/.env").write_text("committed = by-mistake\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    git = ["git", "-C", root, "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "one"], check=True)
    for name, text in {
        "src/losslab/loop.py": "after = 2\n",
        "conf/.env": "HF_TOKEN=changed-secret\n",
        "src/losslab/mine.py": "new = 'objective'\n",
        "conf/loss/naïve.yaml": "new: objective\n",
        "experiments/mine.yaml": "new: experiment\n",
        "standalone.py": "imported = True\n",
        ".env": "A=env-secret\n",
        "id_rsa": "rsa-secret\n",
        "notes/plan.md": "private-plan\n",
        "scratch.py": "not_imported = 'private'\n",
        "src/server.pem": "pem-secret\n",
        "conf/credentials.yaml": "password: yaml-secret\n",
        "experiments/big.json": "0" * (code_snapshot.LARGEST + 1),
    }.items():
        (root / name).write_text(text)
    (root / "src/.#loop.py").symlink_to("someone@somewhere.1")  # an editor's lock
    monkeypatch.setattr(code_snapshot, "ROOT", root)
    monkeypatch.setattr(code_snapshot, "SNAPSHOT", root / "snapshot.json")
    monkeypatch.syspath_prepend(str(root))
    import standalone  # type: ignore[import-not-found]

    yield root
    del sys.modules[standalone.__name__]


NEW = ["conf/loss/naïve.yaml", "experiments/mine.yaml", "src/losslab/mine.py", "standalone.py"]


def test_new_files_that_are_code_are_recorded_and_no_others(checkout):
    assert code_snapshot.new_sources() == NEW
    changes = code_snapshot.changes()
    for line in ("-before = 1", "+after = 2", "+new = 'objective'", "+new: objective", "+imported = True"):
        assert line in changes.splitlines()
    assert "secret" not in changes and "private" not in changes and "by-mistake" not in changes


def test_the_snapshot_has_the_same_files_and_they_keep_their_modes(checkout, tmp_path):
    (checkout / "src/losslab/mine.py").chmod(0o640)
    copy = code_snapshot.take(tmp_path / "copy")
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()) == sorted(
        [*NEW, "src/losslab/loop.py", "snapshot.json"]
    )
    assert (copy / "src/losslab/mine.py").stat().st_mode & 0o777 == 0o640
    assert (copy / "snapshot.json").stat().st_mode & 0o777 == 0o640  # the file is part of the changes in it
    assert json.loads((copy / "snapshot.json").read_text())["changes"] == code_snapshot.changes()


def test_without_git_no_secret_is_code_either(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    names = code_snapshot.files()
    assert set(NEW) <= set(names)
    assert not {".env", "id_rsa", "conf/.env", "src/server.pem", "conf/credentials.yaml"} & set(names)


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "prod.env", "id_rsa", "id_ed25519.pub", "a/server.PEM", "tls.key", "credentials", ".netrc",
     "credentials.json", "client_secret.json", ".git-credentials", ".pypirc"],
)  # fmt: skip
def test_names_that_hold_secrets(name):
    assert holds_secrets(name)


@pytest.mark.parametrize("name", ["loop.py", "id_map.py", "conf/model/tiny.yaml", "keys.yaml", "environment.json"])
def test_names_that_do_not(name):
    assert not holds_secrets(name)


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SHORT_KEY", "1234567")
    monkeypatch.setenv("MY_PASSWORD", 'quo"ted\\päss')
    monkeypatch.setenv("PRIVATE_KEY", "-----BEGIN\nlinelineline1\nlinelineline2")
    monkeypatch.setenv("HARMLESS", "nothing-secret")


def test_values_of_secret_variables_are_masked(secrets):
    assert masked(f"a {TOKEN}{TOKEN} b") == "a <HF_TOKEN><HF_TOKEN> b"
    assert masked("1234567 nothing-secret") == "1234567 nothing-secret"
    assert masked(json.dumps({"a": 'quo"ted\\päss'})) == '{"a": "<MY_PASSWORD>"}'
    assert masked('quo"ted\\päss') == "<MY_PASSWORD>"
    assert masked("+linelineline1\n+linelineline2") == "+<PRIVATE_KEY>\n+<PRIVATE_KEY>"


def test_no_record_has_them(secrets, tmp_path):
    write(tmp_path / "a", f"command {TOKEN}")
    write_json(tmp_path / "b", {"command": ["train", f"x={TOKEN}"]})
    append_line(tmp_path / "c", {"text": 'quo"ted\\päss'})
    assert (tmp_path / "a").read_text() == "command <HF_TOKEN>"
    assert json.loads((tmp_path / "b").read_text()) == {"command": ["train", "x=<HF_TOKEN>"]}
    assert json.loads((tmp_path / "c").read_text()) == {"text": "<MY_PASSWORD>"}


def test_a_file_has_the_mode_of_the_umask_or_a_narrower_one(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a", "text")
        write(tmp_path / "b", "text", 0o600)
    finally:
        os.umask(before)
    assert [Path(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o640, 0o600]
