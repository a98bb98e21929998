"""The `pns` command, also as `python -m pns`."""

import sys


def main() -> None:
    """Entry point. The command line is imported here, so that Ctrl-C meanwhile ends in silence, too."""
    try:
        from pns.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
