"""`python -m gdetkd.cli`."""

from gdetkd.cli import main

main()
