"""Records of the first schema, translated as they are read.

They call effects by other names, and their tensors have no column where there is only one.
"""

from typing import Any

from codi_lens.choices import EARLIER_NAMES

VERSION = 1


def translated(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a record of the first schema in today's words."""
    settings = dict(manifest["settings"])
    mode = settings.pop("mode")
    settings["effect"] = EARLIER_NAMES.get(mode, mode)
    return manifest | {"settings": settings}
