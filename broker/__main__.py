"""`python -m broker` is the `postroom` command."""

import sys

from broker.cli.app import main

sys.exit(main())
