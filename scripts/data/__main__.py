"""`python -m conjoint.scripts.data`: the verb by itself."""

import sys

from conjoint.scripts.main import main_of

main_of("data", sys.argv[1:])
