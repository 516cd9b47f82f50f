"""The command line: what exists is frozen here, and errors are one line with a remedy."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from factory.cli import cli
from factory.errors import ClusterError
from factory.models.generator import Generator
from factory.sample import session
from factory.sample.session import ray_session


def listed(command: click.Command, path: str) -> list[str]:
    if isinstance(command, click.Group):
        return [
            line
            for name, inner in sorted(command.commands.items())
            for line in listed(inner, f"{path} {name}")
        ]
    options = [
        parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.name).upper()
        for parameter in command.params
    ]
    return [" ".join([path, *sorted(options)])]


def test_a_new_option_is_a_decision() -> None:
    """Add to this list on purpose, together with the README."""
    frozen = (Path(__file__).parent / "cli.txt").read_text().splitlines()
    assert listed(cli, "factory") == frozen


def helps(command: click.Command, name: str) -> list[str]:
    text = command.get_help(click.Context(command, info_name=name))
    inner = command.commands if isinstance(command, click.Group) else {}
    return [text, *(t for n, c in inner.items() for t in helps(c, n))]


def test_examples_stand_on_lines_of_their_own() -> None:
    texts = helps(cli, "factory")
    assert not [text for text in texts if "\\b" in text or "\b" in text]
    examples = [line for text in texts for line in text.splitlines() if "  factory " in line]
    assert len(examples) > 8


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from factory.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=900
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--set", "num_imges=3"], "unknown key 'num_imges'"),
        (["generate", "--config", "nowhere.yaml"], "no configuration at 'nowhere.yaml'"),
        (["generate", "--set", "model=nowhere"], "no generator at 'nowhere'"),
        (["catalog", "sql", "SELECT 1", "--catalog", "nowhere"], "there is no catalog at"),
        (["generate", "--set", "table=nowhere.csv"], "there is no table at 'nowhere.csv'"),
        (["regenerate", "abc", "--catalog", "nowhere"], "there is no catalog at"),
        (["gallery", "--host", "0.0.0.0"], "no token to ask them for"),
        (["gallery", "--token-file", "nowhere"], "the token file 'nowhere' cannot be read"),
        (["real", "describe", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_one(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_address_of_a_dashboard_is_told_from_that_of_a_head() -> None:
    for address, reason in (
        ("http://127.0.0.1:8265", "a dashboard's address: give host:port"),
        ("ray://127.0.0.1:1", "refused"),
    ):
        wrong = pytest.raises(ClusterError, match=f"no Ray head answers at .*{reason}")
        with wrong, ray_session(address):
            pass


def test_a_machine_too_busy_for_ray_is_asked_again_and_said_to_be_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.shutdown", lambda: None)  # that of other tests goes on
    late, told = Exception("The current node timed out during startup. This could happen"), []

    def starts(*outcomes: Exception | None) -> Callable[[], None]:
        left = list(outcomes)

        def start() -> None:
            if (error := left.pop(0)) is not None:
                raise error

        return start

    session._patiently(starts(late, late, None), told.append)
    assert len(told) == 2
    assert all("too busy" in line for line in told)
    with pytest.raises(Exception, match="timed out"):
        session._patiently(starts(late, late, late), told.append)
    with pytest.raises(ValueError, match="other"):
        session._patiently(starts(ValueError("other"), None), told.append)
    remedy = session._no_ray(None, late).remedy
    assert "less busy" in remedy
    assert "leave the address out" not in remedy


def test_an_unreachable_head_says_how_to_start_one(tiny: Generator, tmp_path: Path) -> None:
    done = run(
        "generate", "--address", "127.0.0.1:1", "--catalog", str(tmp_path / "catalog"),
        "--set", f"model={tiny.folder}", "--set", "classes={monocyte: a monocyte}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "no Ray head answers at '127.0.0.1:1'" in done.stderr
    assert "ray start --head" in done.stderr
    assert not (tmp_path / "catalog").exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from factory.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'diffusers', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


def test_the_catalog_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, catalog\n"
        "from catalog import Catalog, SampleSink, sql, write_batch\n"
        "heavy = {'torch', 'ray', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def said(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module but for its docstrings."""
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in skipped:
            yield node.value


def test_no_message_of_the_package_names_a_file_that_is_not_in_it() -> None:
    """An installed package has no jobs/: what helps must be a command."""
    root = Path(__file__).parent.parent
    texts = [
        f"{path.name}: {text}"
        for package in ("factory", "catalog")
        for path in (root / package).rglob("*.py")
        for text in said(ast.parse(path.read_text()))
    ]
    assert len(texts) > 1000
    assert not [text for text in texts if "jobs/" in text]
