"""``python -m replay``."""

from __future__ import annotations

import sys

from replay.cli.main import main

sys.exit(main())
