"""`python -m service` is the command `logitserve`."""

import sys

from service.cli import main

sys.exit(main())
