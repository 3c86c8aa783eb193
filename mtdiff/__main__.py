"""`python -m mtdiff` and `accelerate launch -m mtdiff`."""

from mtdiff.cli import main

if __name__ == "__main__":
    main()
