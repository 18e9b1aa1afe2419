"""Re-weighting of the widths' losses (SlimCLR, section 3.3)."""

from collections.abc import Callable, Sequence

_Rule = Callable[[Sequence[float]], list[float]]


def _share(widths: Sequence[float]) -> list[float]:
    return [width / sum(widths) for width in widths]


def _cumulative(widths: Sequence[float]) -> list[float]:
    # The largest width plus all narrower ones: a wide network counts for those within it too. The mean is 1.
    raw = [max(widths) + sum(other for other in widths if other < width) for width in widths]
    return [weight * len(widths) / sum(raw) for weight in raw]


# Name -> rule; widths come from the largest down. The reference's number of each rule and its rounding in brackets.
LOSS_WEIGHTS: dict[str, _Rule] = {
    "equal": lambda widths: [1.0 for _ in widths],  # (0)
    "share": lambda widths: [round(share, 3) for share in _share(widths)],  # (1, three decimals)
    "width": lambda widths: list(widths),  # (2)
    "width_mean_1": lambda widths: [round(share * len(widths), 3) for share in _share(widths)],  # (3, three decimals)
    "sub_sum_to_full": lambda widths: [1.0 + sum(widths[1:])] + [1.0 for _ in widths[1:]],  # (5) the paper's
    "cumulative": lambda widths: [round(weight, 3) for weight in _cumulative(widths)],  # (6, three decimals)
    "next_to_full": lambda widths: [1.0 + sum(widths[1:2])] + [1.0 for _ in widths[1:]],  # (7)
}


def loss_weights(rule: str, widths: Sequence[float]) -> dict[float, float]:
    """Weight of each width's loss.

    Args:
        rule: A name in `LOSS_WEIGHTS`.
        widths: Width multipliers in any order.
    """
    ordered = sorted(widths, reverse=True)
    return dict(zip(ordered, LOSS_WEIGHTS[rule](ordered), strict=True))
