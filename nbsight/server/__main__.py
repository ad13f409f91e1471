"""`python -m nbsight.server` is `nbsight`."""

from nbsight.server.cli import main

main()
