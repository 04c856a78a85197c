"""The command `prmagic`, also as `python -m prmagic`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is being imported ends it in silence; a command tells of it."""
    try:
        from prmagic.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
