"""Matcher: `matcher.py` says in which order its steps come, `steps.py` has the steps as functions of arrays."""

from prmagic.frameworks.matcher.matcher import Matcher
from prmagic.frameworks.matcher.options import MatcherOptions

__all__ = ["Matcher", "MatcherOptions"]
