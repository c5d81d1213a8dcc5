"""The model that thinks: tokens, hooks with addresses in the latent loop, the loop itself, and HookedCodi.

loop.py is the latent-thought loop; hooked_codi.py what users hold; backend.py makes a HookedTransformer of a
LLaMA; prefix_cache.py and prefix_blocks.py let many rows share a prompt."""
