"""`python -m pns` is the `pns` command."""

from pns.cli import main

if __name__ == "__main__":
    main()
