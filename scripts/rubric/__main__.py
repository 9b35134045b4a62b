"""`python -m conjoint.scripts.rubric`: the verb by itself."""

import sys

from conjoint.scripts.main import main_of

main_of("rubric", sys.argv[1:])
