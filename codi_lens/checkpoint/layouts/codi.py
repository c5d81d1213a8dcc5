"""The names in an official CODI checkpoint.

The file is the state dict of one module: `codi`, a LLaMA inside two wrappers of peft, and `prj`.
"""

LLAMA_PREFIX = "codi.base_model.model."
PROJECTION_PREFIX = "prj."
OWN_PREFIXES = (LLAMA_PREFIX, PROJECTION_PREFIX)
"""What the keys of the model itself begin with; everything else in a file is foreign."""
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""Behind `LLAMA_PREFIX`, as the other names of a LLaMA; the two may be one tensor."""
EXTRA_TOKENS = 3
"""pad, bot and eot, added behind the base vocabulary where the tokenizer has no tokens of its own."""
LEFTOVERS = ("rotary_emb.inv_freq",)
"""How buffers end that older versions of transformers stored, and that the config determines."""
NORM_NAMES = ("ln.", "4.")
"""Behind `PROJECTION_PREFIX`: the projection's layer norm by its name or, unnamed, by its place."""
