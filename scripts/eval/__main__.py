"""`python -m conjoint.scripts.eval`: the verb by itself."""

import sys

from conjoint.scripts.main import main_of

main_of("eval", sys.argv[1:])
