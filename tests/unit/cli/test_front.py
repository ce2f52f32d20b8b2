"""The front desk: exit statuses, where things are printed, colours, errors and interruptions."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.cli.front import COMMANDS, main
from tests.unit.cli.commands import COMMAND, run

WITHOUT_RICH = (
    "import sys; sys.modules['rich'] = None\n"
    "from mmformat.cli import main\n"
    "sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def message(tmp_path: Path) -> Path:
    item = mm.MultimodalDataItem(modality="IMAGE", feature=np.ones((4, 8), np.float32))
    path = tmp_path / "x.arrows"
    mm.encode(mm.MultimodalInputs(items=[item])).save(path)
    return path


def test_the_version_is_data() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"mmformat {mm.__version__}\n",
        "",
    )


def test_help_names_every_command_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("demo", "encode", "inspect", "verify", "bench"):
        assert re.search(rf"^    {name} ", text, re.MULTILINE), name
    assert "exit status" in text


@pytest.mark.parametrize("command", ["demo", "encode", "inspect", "verify", "bench"])
def test_each_command_has_help_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command in COMMANDS
    assert main([command, "--help"]) == 0
    captured = capsys.readouterr()
    assert f"examples:\n  mmformat {command}" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["inspect"],
        ["demo", "--tp", "0"],
        ["encode", "x.jpg"],
        ["inspect", "--js"],
    ],
    ids=["none", "unknown", "no-path", "no-rank", "no-output", "abbreviated"],
)
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .+\n\nhint: mmformat.*--help\n", captured.err)


def test_what_could_not_run_is_three_without_a_traceback() -> None:
    result = run("inspect", "/no/such/file")
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error: /no/such/file: no such file")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_shows_a_traceback_with_debug_alone(
    debug: bool, message: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise KeyError("surprise")

    monkeypatch.setattr("mmformat.cli.inspect.run", broken)
    arguments = ["inspect", str(message), *(["--debug"] if debug else [])]
    assert main(arguments) == 3
    text = capsys.readouterr().err
    assert ("Traceback" in text) is debug
    assert "error: unexpected KeyError: 'surprise'" in text


def test_an_interruption_is_130(
    message: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmformat.cli.inspect.run", interrupted)
    assert main(["inspect", str(message)]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_error(message: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = subprocess.run(
            [*COMMAND, "inspect", str(message), "--json"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=100,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["inspect", "{}"], ["verify", "{}", "--json"]]
)
@pytest.mark.parametrize("stream", [">&-", "> /dev/full"])
def test_data_that_nobody_gets_is_three(arguments: list[str], stream: str, message: Path) -> None:
    words = " ".join(shlex.quote(word.format(message)) for word in [*COMMAND, *arguments])
    result = subprocess.run(
        ["sh", "-c", f"{words} {stream}"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 3
    assert re.fullmatch(r"error: .*(closed|No space left on device)\n", result.stderr)


def test_notes_do_not_become_data(message: Path, tmp_path: Path) -> None:
    """With stderr closed, print() would write them to stdout."""
    words = " ".join(map(shlex.quote, [*COMMAND, "inspect", str(tmp_path / "nothing")]))
    result = subprocess.run(
        ["sh", "-c", f"{words} 2>&-"], stdout=subprocess.PIPE, text=True, timeout=100, check=False
    )
    assert (result.returncode, result.stdout) == (3, "")


SLOW_IMPORT = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "{name}":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("name", ["pyarrow", "mmformat.cli.front", "mmformat.cli.shm", "rich.box"])
@pytest.mark.parametrize("how", ["module", "script"])
def test_an_interruption_during_an_import_is_130(
    how: str, name: str, message: Path, tmp_path: Path
) -> None:
    pytest.importorskip(name.partition(".")[0])
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT.format(name=name))
    script = tmp_path / "mmformat"
    script.write_text("import sys\nfrom mmformat.cli import main\nsys.exit(main())\n")
    root = str(Path(__file__).parents[3])
    command = COMMAND if how == "module" else [sys.executable, str(script)]
    process = subprocess.Popen(
        [*command, "shm", "list"] if name == "mmformat.cli.shm" else [*command, "inspect", message],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
    )
    assert process.stderr is not None
    with process:
        assert process.stderr.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted\n"
    assert process.returncode == 130


def test_another_program_keeps_its_own_interruption() -> None:
    code = "import signal, mmformat; print(signal.getsignal(2) is signal.default_int_handler)"
    assert run(code=code).stdout == "True\n"


def _on_a_terminal(*arguments: str, **variables: str) -> str:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        subprocess.run(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color", **variables},
            timeout=100,
            check=False,
        )
        os.set_blocking(ours, False)
        return os.read(ours, 2**16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_colours_on_a_terminal_unless_told_not_to(message: Path) -> None:
    assert "\x1b[" in _on_a_terminal("inspect", "/no/such/file")
    for arguments in (("inspect", "/no/such/file"), ("inspect", str(message))):
        assert "\x1b[3" not in _on_a_terminal(*arguments, NO_COLOR="1")


def test_no_colours_in_a_pipe(message: Path) -> None:
    result = run("inspect", message)
    assert "\x1b" not in result.stdout + result.stderr
    assert "4 x 8" in result.stdout


def _words(text: str) -> list[str]:
    return [word for word in text.split() if word.strip("-\u2500")]


def test_without_rich_tables_are_plain_and_json_works(message: Path) -> None:
    """What was found is shown all the same, with the same words."""
    pytest.importorskip("rich")
    plain = run("inspect", message, code=WITHOUT_RICH)
    assert plain.returncode == 0, plain.stderr
    framed = run("inspect", message)
    assert "\u2500" in framed.stdout and "\u2500" not in plain.stdout
    assert _words(plain.stdout) == _words(framed.stdout)
    assert run("inspect", message, "--json", code=WITHOUT_RICH).returncode == 0
    assert run("--json", "inspect", message, code=WITHOUT_RICH).returncode == 0


def test_names_out_of_a_file_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = mm.MultimodalDataItem(
        modality="IMAGE", model_specific_data={"a\x1b]0;title\x07": np.zeros(64, np.uint8)}
    )
    path = tmp_path / "x.arrows"
    mm.encode(mm.MultimodalInputs(items=[item])).save(path)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_command_is_installed() -> None:
    """The script of the same name as the package, beside the interpreter."""
    script = Path(sys.executable).parent / "mmformat"
    result = subprocess.run([script, "--version"], capture_output=True, timeout=60, check=True)
    assert result.stdout.decode() == f"mmformat {mm.__version__}\n"
