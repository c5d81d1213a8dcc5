"""Finished records -> one page to explore them in; its HTML, CSS and JavaScript lie beside the code."""
