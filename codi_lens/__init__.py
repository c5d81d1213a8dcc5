"""Activation patching inside the latent-thought loop of CODI language models.

The names in `__init__.pyi` are imported when they are first used, so that programs which only parse their
arguments or read a file of pairs need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
