"""`python -m shoal.cli`: the `shoal` command where no script of that name is on the path."""

from shoal.cli.main import main

main()
