"""`python -m lampyris.cli` → the command line, for processes that this program starts."""

import sys

from lampyris.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
