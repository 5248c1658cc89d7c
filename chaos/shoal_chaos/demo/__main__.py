"""`python -m shoal_chaos.demo`: run the demonstration; exit code 1 if anything acknowledged is missing."""

import asyncio
import sys

from shoal_chaos.demo.story import tell

sys.exit(asyncio.run(tell()))
