"""Check every annotated tensor shape of the package while the tests run."""

import hypothesis
from jaxtyping import install_import_hook

install_import_hook("genrefine", "numeric_tower.check")

# A busy machine is no failure.
hypothesis.settings.register_profile("genrefine", deadline=None)
hypothesis.settings.load_profile("genrefine")
