"""`python -m llmbook` is the command `llmbook`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
