"""The licence of a checkpoint, where it restricts what its export may be used for."""

import logging
import re
from pathlib import Path

from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_text
from crossrank.models import RegisteredModel

logger = logging.getLogger(__name__)

CARD = "README.md"  # a model card, which begins with YAML between two lines of three dashes
_CARD_BYTES = 1 << 20
# What a field says, on its line and on those of a list below it, in which names stand between commas or in lines.
_FIELD = re.compile(r"^license(?:_name)?:(.*(?:\n[ \t-].*)*)", re.MULTILINE)
_BETWEEN, _AROUND = re.compile(r"[,\n]|[ \t]#.*"), " \t\r-[]\"'"
_RESTRICTED = re.compile(r"(?:^|[-_ ])(?:nc|non-?commercial|research)(?:[-_ ]|$)", re.IGNORECASE)


def say_licence(name: str, folder: Path, registered: RegisteredModel | None) -> None:
    """Log a warning for a checkpoint whose licence allows no commercial use; its export is under the same one.

    Args:
        name: The model's.
        folder: The checkpoint; its model card counts before what the registry knows.
        registered: The registry's entry.
    """
    stated = _of_card(folder) or ([registered.licence] if registered else [])
    restricted = [licence for licence in stated if _RESTRICTED.search(licence)]
    if restricted:
        logger.warning(
            "%s: its licence is %s, and that of what is exported from it: no commercial use without an agreement with "
            "its authors",
            *(name, restricted[-1]),
        )


def _of_card(folder: Path) -> list[str]:
    """What the YAML of a model card says: an identifier or a list of them, a name where that is ``other``."""
    path = folder / CARD
    try:
        text = read_text(path) if has_entry(path) and path.stat().st_size <= _CARD_BYTES else ""
    except not_thrown_in(OSError, ValueError):  # nothing is computed with it
        return []
    start, _, rest = text.partition("\n")
    head, end, _ = rest.partition("\n---")
    said = _FIELD.findall(head) if start.strip() == "---" and end else []
    names = (name.strip(_AROUND)[:80] for value in said for name in _BETWEEN.split(value))
    return [name for name in names if name]
