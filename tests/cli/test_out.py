"""An --out that cannot be a folder is refused before any work."""

from pathlib import Path

import pytest
from command_line import flat, run

SUPPORT = ("--support", "cat.png", "cat_mask.png")
ELSEWHERE = ("--sam", "no/such/model.pth")  # what would be told first if work had begun
COMMANDS = {
    "segment": ("photos", *SUPPORT, *ELSEWHERE),
    "evaluate": ("own", "--data", "photos", *ELSEWHERE),
    "demo": ("--framework", "no-such-framework"),
    "report": ("no-such-run",),
    "export": ("no-such-run", "--to", "coco"),
}


@pytest.mark.parametrize(
    "command, option",
    [("segment", "--cache"), ("evaluate", "--cache"), ("serve", "--store")],
)
def test_other_folders_that_are_written_are_checked_too(work, command, option):
    given = (*COMMANDS[command], "--out", "new") if command in COMMANDS else ELSEWHERE
    done = run(command, *given, option, "cat.png")
    assert done.exit_code == 2
    assert f"cat.png is a file; {option} needs a folder" in flat(done.output)
    assert not Path("new").exists()


@pytest.mark.parametrize("out", ["cat.png", "cat.png/below"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_refused_first(work, command, out):
    before = Path("cat.png").read_bytes()
    done = run(command, *COMMANDS[command], "--out", out)
    assert done.exit_code == 2
    assert "cat.png is a file; --out needs a folder" in flat(done.output)
    assert Path("cat.png").read_bytes() == before
