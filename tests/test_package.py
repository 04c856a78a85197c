"""What `import prmagic` gives, and what it does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prmagic


def test_what_is_public():
    assert all(getattr(prmagic, name) for name in prmagic.__all__)
    assert (Path(prmagic.__file__).parent / "py.typed").exists()


def test_what_is_not():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        prmagic.nonsense  # noqa: B018


def test_importing_it_loads_none_of_the_large_libraries():
    code = "import sys, prmagic; print(sorted({'torch', 'transformers', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize(
    ("theirs", "found"), [({}, "2000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "9"}, "9")]
)
def test_waiting_threads_spin_shortly_unless_the_user_set_how(theirs, found):
    kept = {name: value for name, value in os.environ.items() if name not in WAITING}
    code = "import os, prmagic; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {**kept, **theirs}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == found
