"""``python -m losspath``: the command line."""

from losspath.cli import main

main()
