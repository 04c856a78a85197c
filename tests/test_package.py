"""What `import prmagic` gives, and what it does not load."""

from __future__ import annotations

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
