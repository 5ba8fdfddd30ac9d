"""`python -m reprobox`: the command line."""

from reprobox.cli.main import main

main()
