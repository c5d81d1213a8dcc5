"""The tests. Whatever they import from the library checks the shapes that it declares."""

import jaxtyping

import tests.shapes

# The import hook decorates every function with `jaxtyping.jaxtyped`: those without a shape do better without.
jaxtyping.jaxtyped = tests.shapes.where_shapes_are(jaxtyping.jaxtyped)  # type: ignore[assignment]
jaxtyping.install_import_hook(tests.shapes.CHECKED, "tests.shapes.checked")
