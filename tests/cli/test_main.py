"""The command as a whole: its help, how it ends, and how fast it starts."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress

import pytest
import typer
from command_line import flat, run

import prmagic.__main__
from prmagic import __version__
from prmagic.cli.main import main
from prmagic.cli.terminal import errors_for_people
from prmagic.frameworks.registry import framework_names
from prmagic.presence import CALIBRATED

COMMANDS = ["segment", "demo", "app", "export", "models", "evaluate", "report", "datasets"]


@pytest.mark.parametrize("columns", ["80", "20"])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["datasets", "check"]])
def test_help(command, columns):
    result = run(*command, "--help" if columns == "80" else "-h", env={"COLUMNS": columns})
    assert result.exit_code == 0
    assert "Usage: " in flat(result.output)


def test_every_command_is_there():
    listed = flat(run("--help").output)
    assert [name for name in COMMANDS if f" {name} " not in listed] == []


def test_version():
    assert run("--version").output == f"prmagic {__version__}\n"


def test_unknown_command():
    result = run("segmen")
    assert result.exit_code == 2
    assert "Did you mean 'segment'" in flat(result.output)


def test_study_says_where_it_is():
    result = run("study", "x", "--out", "y")
    assert result.exit_code == 2
    assert "`prmagic study` is gone: clone the repository and see research/README.md" in flat(result.output)


RUNNING = ["--flow", "--selector", "--batch-size", "--cache", "--ray", "--workers"]


@pytest.mark.parametrize("command, more", [("segment", RUNNING), ("evaluate", RUNNING), ("app", [])])
def test_rare_options_and_settings_are_shown_on_request(command, more):
    few = run(command, "--help").output
    every = run(command, "--help-all").output
    rare = ["--dtype", "--threads", *more]
    assert [name for name in rare if f"{name} " in few] == []
    assert [name for name in rare if f"{name} " not in every] == []
    assert len(re.findall(r"│ (?:\*  |   )?--\w", few)) <= 23  # about twenty, and two for help
    for setting in ("steps=5", "eta=0.001", "extra_points=none", "subset_sizes=1,4", "centers=4"):
        assert setting not in few and setting in every


def test_every_framework_is_named():
    told = flat(run("segment", "--help", env={"COLUMNS": "200"}).output)
    assert [name for name in framework_names() if name not in told] == []


def test_the_calibrated_bounds_are_named():
    told = flat(run("segment", "--help", env={"COLUMNS": "200"}).output)
    for (framework, _), bound in CALIBRATED.items():
        assert f"none; {framework} with the embedded models: {bound}" in told


def test_settings_of_one_framework_and_preset():
    shown = run("segment", "--framework", "matcher", "--preset", "paper", "--help-all").output
    assert "centers=8" in shown and "extra_points" not in shown
    official = run("segment", "--preset", "official", "--help-all").output
    assert "centers=" in official and "extra_points" not in official
    result = run("segment", "--help-all", "--preset", "odd")
    assert result.exit_code == 2 and "o framework has the preset 'odd'" in flat(result.output)
    result = run("segment", "--help-all", "--framework", "macher")
    assert result.exit_code == 2 and "did you mean 'matcher'" in flat(result.output)


def test_panels():
    shown = run("segment", "--help").output
    assert [name for name in ("Input", "Output", "Model", "Refinement") if f"─ {name} ─" not in shown] == []
    assert "─ Running ─" not in shown and "─ Running ─" in run("segment", "--help-all").output


@pytest.mark.parametrize("command", [("evaluate", "own", "--data", "x", "--out", "y"), ("app",)])
def test_old_options_of_other_commands_say_the_new_ones(command):
    said = flat(run(*command, "--encoder-size", "64").output)
    assert "--encoder-size is a setting now: write --set encoder_size=64" in said
    assert "The preset 'paper-coco' is gone" in flat(run(*command, "--preset", "paper-coco").output)


# How it ends


def ended(error, capsys):
    with pytest.raises(typer.Exit) as raised, errors_for_people("Kept."):
        raise error
    return raised.value.exit_code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "error, said",
    [
        (ValueError("the mask is empty"), "The mask is empty"),
        (ValueError("photos is a folder"), "photos is a folder"),  # it is there
        (ValueError("cat.png is empty"), "cat.png is empty"),
        (ValueError("min_score is above 1"), "min_score is above 1"),
        (ValueError("--limit is too small"), "--limit is too small"),
        (ValueError(""), "ValueError"),
        (OSError(28, "no space left", "out/a.png"), "out/a.png: no space left"),
        (OSError(28, "no space left"), "No space left"),
        (MemoryError(), "There is not enough memory"),
        (MemoryError("unable to allocate 3 TiB"), "Unable to allocate 3 TiB"),
        (RuntimeError("out of memory"), "Out of memory"),
    ],
)
def test_an_error_is_one_sentence(tmp_path, monkeypatch, capsys, error, said):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ended(error, capsys) == (2, f"Error: {said}")


def test_what_the_user_wrote_keeps_its_first_letter(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prmagic", "segment", "holiday", "--set", "eta=x"])
    assert ended(ValueError("holiday does not exist"), capsys)[1] == "Error: holiday does not exist"
    assert ended(ValueError("eta 'x' is not a number"), capsys)[1] == "Error: eta 'x' is not a number"


def test_an_interruption_says_what_is_kept(capsys):
    assert ended(KeyboardInterrupt(), capsys) == (130, "Interrupted. Kept.")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigterm_ends_like_an_interruption(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as raised, errors_for_people("Kept."):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert raised.value.exit_code == 143
    assert capsys.readouterr().err.strip() == "Terminated. Kept."
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_system_without_sigterm_works_too(monkeypatch, capsys):
    monkeypatch.delattr(signal, "SIGTERM")
    assert ended(KeyboardInterrupt(), capsys) == (130, "Interrupted. Kept.")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_note(capsys):
    with errors_for_people():
        warnings.warn("the last line is cut short", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Note: The last line is cut short\n"


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("PRMAGIC_DEBUG", "1")
    with pytest.raises(ValueError, match="deep inside"), errors_for_people():
        raise ValueError("deep inside")


def test_help_through_a_pipe_without_greek(monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys, "argv", ["prmagic", "segment", "--help-all", "--framework", "persam"])
    with pytest.raises(SystemExit) as raised:
        main()
    pipe.flush()
    shown = pipe.buffer.getvalue().decode("cp1252")
    assert not raised.value.code, shown
    assert "gamma=0.1" in shown and "√" not in shown


# Real processes


def test_the_start_imports_nothing_heavy():
    """Loading torch or transformers takes seconds."""
    heavy = "{'numpy', 'torch', 'transformers', 'PIL', 'matplotlib', 'gradio', 'ray'}"
    code = (
        f"import sys, prmagic; print(sorted(({heavy} | {{'rich', 'typer'}}) & set(sys.modules)))\n"
        "import typer.main, prmagic.cli.main; typer.main.get_command(prmagic.cli.main.app)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stderr


def test_python_dash_m(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "prmagic", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"prmagic {__version__}\n"


def test_an_interrupt_that_a_termination_caused_counts_as_one(capsys):
    with pytest.raises(typer.Exit) as ended, errors_for_people("Kept."):
        with suppress(KeyboardInterrupt):  # as Ray does, in code that is not Python
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt
    assert ended.value.exit_code == 143
    assert "Terminated. Kept." in capsys.readouterr().err


def test_ctrl_c_before_a_command_begins_shows_no_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("prmagic.cli.main.main", interrupted)
    with pytest.raises(SystemExit) as end:
        prmagic.__main__.main()
    assert end.value.code == 130
