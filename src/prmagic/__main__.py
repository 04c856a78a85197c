"""`python -m prmagic`, for where the command is not on the path."""

from prmagic.cli.main import main

main()
