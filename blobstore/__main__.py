"""`python -m blobstore`: the command line."""

from blobstore.cli import main

main()
