"""`python -m bptt_client.cli` is `bptt`."""

import sys

from bptt_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
