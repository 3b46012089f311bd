"""Check every annotated tensor shape of the package while the tests run."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("genrefine", "numeric_tower.check")

# A busy machine is no failure.
hypothesis.settings.register_profile("genrefine", deadline=None)
hypothesis.settings.load_profile("genrefine")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give every test the same number of threads: sums depend on it, and some tested programs set it."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
