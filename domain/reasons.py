"""What pydantic says of a value that is not valid, in words for a person."""

import re
from collections.abc import Mapping
from typing import Any, Final

_OURS: Final = "Value error, "
_MEMBER: Final = re.compile(r"<[\w.]+: ('[^']*')>")  # of an enum, as Python shows it


def reason_of(error: Mapping[str, Any]) -> str:
    """Return the reason of one of `ValidationError.errors()`."""
    return _MEMBER.sub(r"\1", str(error["msg"]).removeprefix(_OURS))
