"""The house's own rules, checked on its files: who imports what, how long a file may be, what documents say."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import callboard
from callboard import config
from callboard.cli.exits import MEANINGS
from callboard.cli.main import cli
from callboard.errors import ERRORS_BY_CODE

ROOT = Path(callboard.__file__).parent
PACKAGES = ("actors", "cli", "client", "examples", "storage", "testing", "transport")
LINES_MAX = 600
LONG_FOR_A_REASON = {
    "transport/messages.py": 1_000,  # one table: every message there is
}
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)

# Only these talk to the machine; everything else gets clock, chance, sockets and files from its context.
MACHINE = {"time", "random", "socket", "zmq", "uuid", "secrets"}
MAY_USE_THE_MACHINE = {
    "actors/context.py",
    "actors/entry.py",
    "actors/host.py",
    "actors/processes.py",
    "storage/files.py",
}
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "recv_pyobj", "send_pyobj"}


def package_files() -> list[Path]:
    files = list(ROOT.glob("*.py"))
    for package in PACKAGES:
        files += (ROOT / package).rglob("*.py")
    return sorted(files)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed() -> list[tuple[str, ast.Module]]:
    return [
        (name_of(path), ast.parse(path.read_text(encoding="utf-8"), filename=str(path))) for path in package_files()
    ]


def imported_roots(tree: ast.Module) -> set[str]:
    """Return the first names of absolute imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


# -- code --------------------------------------------------------------------------------------------


def test_no_module_in_the_root_bears_a_standard_library_name():
    names = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}

    assert names & set(sys.stdlib_module_names) - {"__main__"} == set()


def test_the_root_has_no_conftest():
    assert not (ROOT / "conftest.py").exists()


def test_no_file_has_two_subjects():
    too_long = {
        name: lines
        for path in (*package_files(), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines()))
        > LONG_FOR_A_REASON.get(name := name_of(path), LINES_MAX)
    }

    assert too_long == {}


def test_the_package_imports_itself_relatively():
    runs_alone = {name for name in map(name_of, package_files()) if name.startswith("examples/")}

    assert {name for name, tree in parsed() if "callboard" in imported_roots(tree)} - runs_alone == set()


def test_nothing_runs_what_it_has_read():
    found = []
    for name, tree in parsed():
        found += [f"{name}: import {module}" for module in imported_roots(tree) & FORBIDDEN_IMPORTS]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                of_re = isinstance(node.func, ast.Attribute) and called == "compile"  # re.compile
                if called in FORBIDDEN_CALLS and not of_re:
                    found.append(f"{name}:{node.lineno}: {called}()")

    assert found == []


def test_an_invariant_is_never_an_assert():
    assert [
        f"{name}:{node.lineno}" for name, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.Assert)
    ] == []


def test_actors_and_storage_get_clock_chance_and_sockets_from_their_context():
    found = {
        name: sorted(used)
        for name, tree in parsed()
        if name.startswith(("actors/", "storage/")) and name not in MAY_USE_THE_MACHINE
        if (used := imported_roots(tree) & MACHINE)
    }

    assert found == {}


def test_no_handler_of_an_actor_awaits():
    found = [
        f"{name}:{node.lineno}"
        for name, tree in parsed()
        if name.startswith("actors/") and name not in MAY_USE_THE_MACHINE
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("on_")
    ]

    assert found == []


def test_import_layers():
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_client_pays_for_no_actor():
    code = "import sys, callboard; callboard.Producer, callboard.Consumer, callboard.AdminClient; "
    code += "print(sorted({'pykka', 'rich', 'click', 'asyncio', 'callboard.actors'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert shown.stdout.strip() == "[]"


def test_a_client_that_connects_pays_for_no_server():
    code = "import sys, callboard; callboard.Producer(bootstrap_servers='127.0.0.1:1').close(); "
    code += "print(sorted({'callboard.transport.' + one for one in ('endpoint', 'router')} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert shown.stdout.strip() == "['callboard.transport.endpoint']"


def test_help_imports_nothing_but_click():
    code = "import sys; from callboard.cli.main import main; main(['--help']); main(['--version']);"
    code += "print(sorted({'pykka', 'rich', 'zmq', 'callboard.client', 'callboard.actors'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert shown.stdout.splitlines()[-1] == "[]"


def test_every_package_is_listed_for_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    wanted = {"callboard." + folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}

    assert wanted - {"callboard.examples.data"} <= listed


# -- documents ----------------------------------------------------------------------------------------


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands_in(text: str, program: str) -> list[str]:
    """Return the lines of shell blocks and the inline code that begin with ``program``."""
    fenced = re.findall(r"^```([a-z-]*)\n(.*?)^```", text, flags=re.S | re.M)
    blocks = [block for language, block in fenced if language in ("", "sh", "shell", "bash", "console", "text")]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines += re.findall(rf"`({program} [^`\n]+)`", text)
    parts = [part.strip() for line in lines for part in re.split(r"\s+\|\s+|\s+&&\s+|\s+#\s+", line)]
    return [part for part in parts if part.startswith(program + " ")]


def command_called(words: list[str]) -> click.Command:
    """Return the command that the words call.

    Raises:
        LookupError: there is none.
    """
    command: click.Command = cli
    context = click.Context(cli)
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        if found is None:
            raise LookupError(f"no command {word!r}")
        command = found
    return command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_document_exists(document: str):
    wrong = []
    for line in commands_in(text_of(document), "callboard"):
        words = [word for word in line.split()[1:] if not re.match(r"^[<>|&;]", word)]
        leading = []
        for word in words:
            if not re.fullmatch(r"[a-z][a-z-]*(\|[a-z-]+)*", word):
                break
            leading.append(word)
        for choice in leading[-1].split("|") if leading and "|" in leading[-1] else [None]:
            try:
                command = command_called(leading if choice is None else [*leading[:-1], choice])
            except LookupError as error:
                wrong.append(f"{line}: {error}")
                continue
            options = {text for param in command.params if isinstance(param, click.Option) for text in param.opts} | {
                "--help",
                "-h",
            }
            given = {word.strip("[]").partition("=")[0] for word in words if re.match(r"^\[?--?[a-z]", word)}
            wrong += [f"{line}: no option {option}" for option in sorted(given - options)]

    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_in_a_document_exists(document: str):
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), flags=re.M))
    mentioned = {word for line in commands_in(text_of(document), "make") for word in line.split()[1:2]}

    assert {word for word in mentioned if re.fullmatch(r"[a-z-]+", word)} - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_in_a_document_leads_somewhere(document: str):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(document))
    relative = [link for link in links if "://" not in link]

    assert [link for link in relative if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize(
    "document", ["README.md", "docs/guarantees.md", "docs/groups.md", "docs/operations.md", "docs/partitions.md"]
)
def test_every_file_that_a_document_names_exists(document: str):
    named = set(
        re.findall(
            r"`((?:tests|examples|docs|benchmarks|cli|client|actors|storage|testing)/[\w./-]+)`", text_of(document)
        )
    )

    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("kind", [config.ClusterConfig, config.TopicConfig, config.BrokerSettings, config.Limits])
def test_operations_names_every_setting_with_its_default(kind: type):
    lines = text_of("docs/operations.md").splitlines()
    missing = []
    for name, default in config.defaults_of(kind).items():
        if isinstance(default, config.Settings):
            continue
        shown = {True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default
        spelled = f"{shown:_}" if isinstance(shown, int) and not isinstance(shown, bool) else f"{shown}" or '""'
        if not any(line.startswith(f"| `{name}` | `{spelled}` |") for line in lines):
            missing.append(f"| `{name}` | `{spelled}` |")

    assert missing == []


def test_the_table_of_exit_statuses_is_the_one_in_use():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", text_of("docs/errors.md"), flags=re.M)

    assert rows == [(str(status.value), word, line) for status, (word, line) in MEANINGS.items()]


def test_the_table_of_error_codes_is_the_one_in_use():
    rows = re.findall(
        r"^\| (-?\d+) \| `([A-Z_]+)` \| (.+?) \| (.+?) \| (.+?) \|$", text_of("docs/errors.md"), flags=re.M
    )

    assert rows == [
        (str(code), error.errno.name, error.fault, said_about_retrying(error), error.advice)
        for code, error in sorted(ERRORS_BY_CODE.items())
    ]


def said_about_retrying(error: type) -> str:
    """Return the column "retry": yes or no, and whether the request may have taken effect."""
    return ("yes" if error.retriable else "no") + ("; outcome unknown" if error.outcome_unknown else "")


def test_the_index_of_decisions_lists_every_page():
    pages = {path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md")}

    assert pages - set(re.findall(r"\]\(([0-9][\w.-]*\.md)\)", text_of("docs/adr/README.md"))) == set()
