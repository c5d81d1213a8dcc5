"""The tests. Whatever they import from the library checks the shapes that it declares."""

from jaxtyping import install_import_hook

import tests.shapes

install_import_hook(tests.shapes.CHECKED, "tests.shapes.checked")
