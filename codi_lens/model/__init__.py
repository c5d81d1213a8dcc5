"""The model that thinks: tokens, hooks with addresses in the latent loop, the loop itself, and HookedCodi.

pretrained.py goes from a name to all that a model consists of; hooked_codi.py is what users hold; loop.py is the
latent-thought loop, and backend.py what it asks of a transformer; prefix_cache.py and prefix_blocks.py let many rows share a prompt."""
