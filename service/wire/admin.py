"""The one body that the native admin routes read: the version that an alias is to stand for."""

from typing import Any, TypeAlias

from service.errors import Invalid
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits
from service.wire.media import JSON

Schema: TypeAlias = dict[str, Any]

ALIAS_EXAMPLE = {"version": "1"}
ALIAS_BODY: Schema = {
    "required": True,
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "version": {
                        "type": ["string", "null"],
                        "description": "A version; null takes the alias away.",
                    }
                },
                "required": ["version"],
                "additionalProperties": False,
            },
            "example": ALIAS_EXAMPLE,
        }
    },
}


def read_alias(body: bytes, limits: Limits) -> str | None:
    """Read the version that an alias is to stand for, None where for no more.

    Raises
    ------
    RequestError
        No JSON object, `unknown_field`, `missing_field`, or `option_type` where the version is no string.
    """
    fields = read_object(body, limits.json_depth)
    for name in fields:
        if name != "version":
            raise Invalid("unknown_field", "expected version and nothing else", path=name[:40])
    if "version" not in fields:
        raise Invalid("missing_field", "expected the version that the alias is to name", path="version")
    version = fields["version"]
    if not (version is None or type(version) is str):
        raise Invalid("option_type", f"expected a string or null, got {name_of(version)}", path="version")
    return version
