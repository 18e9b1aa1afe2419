"""`python -m slimclr`, which torchrun starts."""

import sys

from slimclr.cli import main

sys.exit(main())
