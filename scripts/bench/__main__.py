"""`python -m conjoint.scripts.bench`: the verb by itself."""

import sys

from conjoint.scripts.main import main_of

main_of("bench", sys.argv[1:])
