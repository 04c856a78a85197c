"""Ready examples on photos that come with the package or inside its dependencies: nothing is downloaded."""

from prmagic.demo.cases import Case, cases
from prmagic.demo.sheets import Sheet, photo, sheets

__all__ = ["Case", "Sheet", "cases", "photo", "sheets"]
