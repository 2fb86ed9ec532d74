"""`python -m tollway`: the command line, where its script is not on the path."""

from tollway.cli import main

main()
