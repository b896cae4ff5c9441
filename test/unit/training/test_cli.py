"""The command line: quick help, exit codes, errors in one line, tracebacks on request."""

from __future__ import annotations

import argparse
import subprocess
import sys
import types

import pytest

from smallplan_training import cli
from smallplan_training.errors import UserError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A command `try` whose `run` tests replace."""
    module = types.ModuleType("a_command")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=1)  # type: ignore[attr-defined]
    module.run = lambda args: args.number  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_command", module)
    monkeypatch.setitem(cli.COMMANDS, "try", ("a_command", "for tests"))
    return module


def raise_(error: BaseException) -> None:
    raise error


def test_the_exit_code_is_the_commands(command: types.ModuleType) -> None:
    assert cli.main(["try"]) == 1
    assert cli.main(["try", "--number", "0"]) == 0


def test_a_user_error_is_one_line(command: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    command.run = lambda args: raise_(UserError("the house is on fire"))
    assert cli.main(["try"]) == cli.USER_ERROR
    assert capsys.readouterr().err == "smallplan: the house is on fire\n"


@pytest.mark.parametrize("words", [["--verbose", "try"], ["try", "--verbose"]])
def test_verbose_shows_the_traceback(
    words: list[str], command: types.ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    command.run = lambda args: raise_(UserError("the house is on fire"))
    assert cli.main(words) == cli.USER_ERROR
    assert caplog.records and caplog.records[-1].exc_info is not None


def test_what_is_not_installed_is_named_with_the_remedy(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run = lambda args: raise_(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert cli.main(["try"]) == cli.USER_ERROR
    assert capsys.readouterr().err == "smallplan: try needs torch: run `make setup-training`\n"


def test_a_missing_module_of_our_own_is_a_bug(command: types.ModuleType) -> None:
    command.run = lambda args: raise_(ModuleNotFoundError("No module named 'smallplan_oops'", name="smallplan_oops"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["try"])


def test_bugs_are_not_hidden(command: types.ModuleType) -> None:
    command.run = lambda args: raise_(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_interrupt(command: types.ModuleType) -> None:
    command.run = lambda args: raise_(KeyboardInterrupt())
    assert cli.main(["try"]) == cli.INTERRUPTED


@pytest.mark.parametrize("words", [[], ["fly"], ["try", "--number", "x"]])
def test_wrong_usage_exits_with_2(words: list[str], command: types.ModuleType) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(words)
    assert exited.value.code == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom smallplan_training import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'llama_cpp', 'rclpy', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in cli.COMMANDS)


@pytest.mark.parametrize("name", ["demo", "evaluate", "probe-flip"])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    assert "--seed" in capsys.readouterr().out


def test_commands_name_importable_modules() -> None:
    for module, help_line in cli.COMMANDS.values():
        assert module.startswith("smallplan_training.") and help_line
    assert isinstance(cli._build_parser(None), argparse.ArgumentParser)
