"""How large one request may be.

The values come from the settings; only their names are known here, so that whoever is refused can tell the
operator which one to raise.
"""

import math
from dataclasses import dataclass

from service.errors import Invalid, Malformed, TooLarge

# numpy 1 holds arrays of at most this many axes, numpy 2 of twice as many; no head comes near.
MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one request may have.

    Parameters
    ----------
    body_bytes : int
        Length of the body, before and after decompression.
    rows : int
        Examples: the product of all axes but the class (or feature) axis.
    elements : int
        Numbers in one array.
    json_depth : int
        Nesting of JSON lists and objects, the outermost object included.
    """

    body_bytes: int
    rows: int
    elements: int
    json_depth: int


def body_too_large(limit_bytes: int) -> TooLarge:
    message = (
        f"expected at most {limit_bytes} bytes once decompressed (LOGITSERVE_BODY_LIMIT_BYTES), got more"
    )
    return TooLarge("body_too_large", message)


def nested_too_deep(limit: int) -> Malformed:
    message = f"expected at most {limit} levels of nesting (LOGITSERVE_JSON_DEPTH_LIMIT), got more"
    return Malformed("malformed_json", message)


def check_elements(shape: tuple[int, ...], limits: Limits, *, path: str) -> None:
    """Refuse an array by its declared shape, before memory is taken for it.

    An empty axis counts as one: an array of shape [0, 10**12] holds nothing, yet whoever reduces over its
    rows would allocate the other axis.
    """
    elements = math.prod(shape)
    if 0 < elements <= limits.elements and len(shape) <= MAX_RANK:
        return
    if len(shape) > MAX_RANK:
        raise Invalid("rank", f"expected at most {MAX_RANK} axes, got {len(shape)}", path=path)
    elements = elements or math.prod(max(length, 1) for length in shape)
    if elements > limits.elements:
        limit = f"at most {limits.elements} numbers (LOGITSERVE_ELEMENTS_LIMIT)"
        raise TooLarge("elements_too_many", f"expected {limit}, got {elements}", path=path)


def check_rows(rows: int, limits: Limits, *, path: str) -> None:
    if rows > limits.rows:
        limit = f"at most {limits.rows} rows (LOGITSERVE_ROWS_LIMIT)"
        raise TooLarge("rows_too_many", f"expected {limit}, got {rows}", path=path)
