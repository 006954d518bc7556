"""The languages whose programs can be run: their compilers, and the command lines of the published evaluations.

Those of MultiPL-E are as Qwen2.5-Coder's evaluation runs them (github.com/QwenLM/Qwen2.5-Coder, qwencoder-eval/base).
"""

import importlib.util
import os
import shlex
import shutil
import site
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from losslab.programs.sandbox import Limits, Run, Sandbox

RUN_SECONDS = 10.0  # of every published evaluation, by the clock; here of processor time, for machines that are busy
COMPILE_SECONDS = 60.0
CLOCK = 30  # times as long by the clock, for programs that sleep: many programs at once may share a core
NOT_COMPILED = 125  # the exit status of a program that does not compile
JAVATUPLES = Path("/usr/share/java/javatuples.jar")
JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx1g"


@dataclass(frozen=True)
class Language:
    """In the command lines, a name in braces stands for the path of that program."""

    title: str
    file: str  # what the program is called
    run: str
    programs: tuple[str, ...]  # that are needed
    install: str  # the command that installs them on Debian and Ubuntu
    compile: str = ""
    again: str = ""  # how it is compiled where the program does not compile, or fails, the first time
    files: tuple[Path, ...] = ()  # that are needed besides
    absent: tuple[str, ...] = ()  # programs that the published evaluation lacked: no verdict depends on them


LANGUAGES = {
    "python": Language("Python", "program.py", "{python3} -s -B program.py", ("python3",), ""),
    "js": Language("JavaScript", "program.js", "{node} program.js", ("node",), "apt-get install nodejs"),
    "ts": Language(
        "TypeScript",
        "program.ts",
        "{node} program.js",
        ("node", "tsc"),
        "apt-get install nodejs npm && npm install --global typescript@5.6",  # later ones refuse what 5 accepts
        # Without a check of the compiler's own declarations, which takes most of its time and finds nothing.
        compile="{node} {tsc} program.ts --skipDefaultLibCheck --target ES2015 --lib ES2015,DOM",
        again="{node} {tsc} program.ts --skipDefaultLibCheck",
    ),
    "php": Language("PHP", "program.php", "{php} -f program.php", ("php",), "apt-get install php-cli"),
    "sh": Language("Bash", "program.sh", "{bash} program.sh", ("bash",), "apt-get install bash", absent=("bc",)),
    "cpp": Language(
        "C++", "program.cpp", "./a.out", ("g++",), "apt-get install g++", compile="{g++} -std=c++17 program.cpp"
    ),
    "cs": Language(
        "C#",
        "Program.cs",
        "{mono} Program.exe",
        ("mono", "mcs"),
        "apt-get install mono-mcs mono-runtime libmono-system-core4.0-cil libmono-system-numerics4.0-cil",
        compile="{mcs} -d:DEBUG -r:System.Numerics.dll Program.cs",
    ),
    "java": Language(
        "Java",
        "Problem.java",
        f"{{java}} {JVM} -ea -cp .:{JAVATUPLES} Problem",
        ("java", "javac"),
        "apt-get install default-jdk-headless libjavatuples-java",
        compile=f"{{javac}} -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -encoding UTF8 -cp {JAVATUPLES} Problem.java",
        files=(JAVATUPLES,),
    ),
}


def missing(language: str) -> list[str]:
    """The programs and files of a language that this machine lacks."""
    about = LANGUAGES[language]
    programs = [name for name in about.programs if _program(name) is None]
    return programs + [str(file) for file in about.files if not file.is_file()]


def without(language: str) -> str:
    """What is missing to run a language, as a sentence; empty where nothing is."""
    about, lacks = LANGUAGES[language], missing(language)
    return f"{about.title} needs {' and '.join(lacks)} ({about.install})" if lacks else ""


class Toolchains:
    """Compiles and runs programs in a sandbox. Safe to use from several threads at once.

    Raises:
        ValueError: this machine cannot isolate a process, and `isolated` is not False, or cannot limit one.
    """

    def __init__(self, isolated: bool = True) -> None:
        places: dict[str, Path | None] = {}
        self.paths: dict[str, str] = {}
        for name in sorted({name for language in LANGUAGES.values() for name in language.programs}):
            if (path := _program(name)) is None:
                continue
            if isolated and not path.is_relative_to("/usr"):
                places[f"/tools/{name}"] = path.parents[1]
                path = Path("/tools", name, *path.parts[-2:])
            self.paths[name] = str(path)
        if isolated:
            absent = [name for language in LANGUAGES.values() for name in language.absent]
            places |= {str(path): Path(os.devnull) for name in absent if (path := _program(name)) is not None}
            places |= dict.fromkeys(_site_packages(Path(self.paths["python3"]).parents[1]))
        packages = _packages()
        for folder in packages if isolated else ():
            places[f"/packages/{folder.name}"] = folder
        self.variables = {"PYTHONPATH": os.pathsep.join({str(folder.parent) for folder in packages})}
        if isolated:  # where it does not find the library of its interpreter by itself
            library = str(Path(self.paths["python3"]).parents[1] / "lib")
            self.variables = {"PYTHONPATH": "/packages", "LD_LIBRARY_PATH": library}
        self.sandbox = Sandbox(places, isolated)

    def run(self, language: str, program: str, files: Mapping[str, str] | None = None) -> Run:
        """Compile and run a program; its status is `NOT_COMPILED` where it does not compile.

        Args:
            files: others that it reads, by name.
        """
        about = LANGUAGES[language]
        variables = self.variables if language == "python" else {"MONO_TRACE_LISTENER": "Console.Error"}
        limits, command = Limits(RUN_SECONDS, CLOCK * RUN_SECONDS), self._line(about.run)
        if about.compile:
            tries = [self._built(line, command) for line in (about.compile, about.again) if line]
            command = " || ".join(tries)
            limits = Limits(COMPILE_SECONDS, len(tries) * CLOCK * (COMPILE_SECONDS + RUN_SECONDS))
        shell = ["/bin/sh", "-c", command if about.compile else f"exec {command}"]
        return self.sandbox.run(shell, {about.file: program, **(files or {})}, limits, variables)

    def _line(self, line: str) -> str:
        for name, path in self.paths.items():
            line = line.replace(f"{{{name}}}", shlex.quote(path))
        return line

    def _built(self, line: str, command: str) -> str:
        build = f"{self._line(line)} >&2 || exit {NOT_COMPILED}"
        limit = f"ulimit -t {max(1, round(RUN_SECONDS))}"
        return f"( {build}; {limit}; timeout -s KILL {CLOCK * RUN_SECONDS:g} {command} )"


def _program(name: str) -> Path | None:
    """Where a program really is. Python is that of this process."""
    path = sys.executable if name == "python3" else shutil.which(name)
    return None if path is None else Path(os.path.realpath(path))


def _site_packages(root: Path) -> list[str]:
    """Where the sandbox has the packages beside this Python, `root` standing for its prefix. No program is to see them:
    what they do at every start of Python can take longer than the program."""
    prefix = os.path.realpath(sys.base_prefix)
    folders = [Path(os.path.realpath(folder)) for folder in site.getsitepackages([prefix])]
    return [str(root / folder.relative_to(prefix)) for folder in folders if folder.is_dir()]


def _packages() -> Iterable[Path]:
    """The folders of NumPy, which published tests import."""
    specification = importlib.util.find_spec("numpy")
    assert specification is not None and specification.origin is not None, "losslab depends on it"
    folder = Path(specification.origin).parent
    return [path for path in (folder, folder.with_name("numpy.libs")) if path.is_dir()]
