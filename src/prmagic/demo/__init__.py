"""Ready examples on photos that come inside the dependencies' wheels: nothing is downloaded."""

from prmagic.demo.cases import Case, cases

__all__ = ["Case", "cases"]
