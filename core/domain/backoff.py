"""How long to wait after failures in a row."""

from __future__ import annotations


def delay(failures: int, base_s: float, cap_s: float) -> float:
    """Seconds to wait after the n-th failure in a row: `base * 2^(n-1)`, never past `cap`, 0 for none.

    Never shrinks while failures grow. Raises ValueError for a negative count.
    """
    if failures < 0:
        raise ValueError("failures cannot be negative")
    if failures == 0:
        return 0.0
    # 2**63 is far past any cap; without the limit a huge count would overflow a float.
    return min(cap_s, base_s * 2.0 ** min(failures - 1, 63))
