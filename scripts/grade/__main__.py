"""`python -m conjoint.scripts.grade`: the verb by itself."""

import sys

from conjoint.scripts.main import main_of

main_of("grade", sys.argv[1:])
