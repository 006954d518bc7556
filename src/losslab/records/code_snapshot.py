"""Identifies and copies the current code, so that a job that runs later is not affected by edits made meanwhile.

Code is the files that git tracks, and new source files where losslab or Python looks for them. Files whose names mark
them as secret are left out, and the copy of a file that other users cannot read is unreadable for them too.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from losslab.config.masking import FILES, holds_secrets
from losslab.config.paths import ROOT
from losslab.files.json_files import read_json, write_json

SNAPSHOT = ROOT / "snapshot.json"  # beside code that `take` copied
LARGEST = 1 << 20  # bytes of a file that git does not track; a larger one is data
FOLDERS = ("src", "conf", "experiments")  # where new files are code
SOURCES = (".py", ".yaml", ".yml", ".csv", ".html", ".js", ".css", ".json")
WITHOUT_GIT = ("src/**/*", "conf/**/*", "experiments/**/*", "*.py")


def take(folder: Path) -> Path:
    """Copy the project to `folder`, with uncommitted changes and new source files, and record which code it is."""
    for name in files():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    about = {"commit": commit(), "dirty": dirty(), "changes": changes()}
    write_json(folder / "snapshot.json", about, mode())
    return folder


def files() -> list[str]:
    """Paths under the project's root that belong to its code."""
    tracked = listed()
    if not tracked:
        return sorted(
            str(path.relative_to(ROOT))
            for pattern in WITHOUT_GIT
            for path in ROOT.glob(pattern)
            if (path.is_file() or path.is_symlink()) and not holds_secrets(path.name)
        )
    there = [name for name in tracked if (ROOT / name).is_symlink() or (ROOT / name).exists()]
    return [name for name in there if not holds_secrets(name)] + new_sources()


def commit() -> str | None:
    """The commit of this code or, in a snapshot, of the code that was copied."""
    return read_json(SNAPSHOT)["commit"] if SNAPSHOT.exists() else git("rev-parse", "HEAD").strip() or None


def dirty() -> bool:
    return read_json(SNAPSHOT)["dirty"] if SNAPSHOT.exists() else bool(git("status", "--porcelain").strip())


def changes() -> str:
    """The uncommitted changes of the code: diffs of tracked files, and new source files."""
    if SNAPSHOT.exists():
        return read_json(SNAPSHOT)["changes"]
    left_out = [f":(exclude,glob,icase)**/{pattern}" for pattern in FILES]
    tracked = git("diff", "HEAD", "--", ".", *left_out)
    return tracked + "".join(git("diff", "--no-index", "/dev/null", file) for file in new_sources())


def mode() -> int:
    """The permissions of `changes()`: readable by those who may read every file in it."""
    if SNAPSHOT.exists():
        return SNAPSHOT.stat().st_mode & 0o666
    allowed = 0o666
    for name in [*listed("--modified"), *new_sources()]:
        if (ROOT / name).is_file() and not holds_secrets(name):
            allowed &= (ROOT / name).stat().st_mode | 0o200
    return allowed


def new_sources() -> list[str]:
    """Source files that git does not track yet and does not ignore: those in FOLDERS, and those that are imported."""
    imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return [
        name
        for name in listed("--others", "--exclude-standard")
        if (Path(name).parts[0] in FOLDERS and Path(name).suffix in SOURCES or str(ROOT / name) in imported)
        and not holds_secrets(name)
        and (ROOT / name).is_file()
        and (ROOT / name).stat().st_size <= LARGEST
    ]


def listed(*options: str) -> list[str]:
    return [name for name in git("ls-files", "-z", *options).split("\0") if name]


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    text = done.stdout.decode("utf-8", errors="replace")
    return text if done.returncode in (0, 1) else ""  # git diff returns 1 if there is a difference
