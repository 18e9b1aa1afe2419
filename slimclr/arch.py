"""Facts about the architectures that the config checks before anything heavy is imported."""

# Depth -> bottleneck blocks per stage. 14 and 26 are the small ones of the miniature and of tests.
BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Depth -> basic blocks per stage of the networks for 32 px images.
CIFAR_BLOCKS = {depth: ((depth - 2) // 6,) * 3 for depth in (20, 32, 44, 56, 110)}
CIFAR_BASE_WIDTH = 16
DEPTHS = (*BLOCKS, *CIFAR_BLOCKS)


def arch_name(depth: int, base_width: int) -> str:
    """Name of an architecture.

    `resnet50`, `resnet14w16` where the base width is not the usual 64, `resnet20x4` with CIFAR's width factor.
    """
    if depth in CIFAR_BLOCKS:
        factor = base_width / CIFAR_BASE_WIDTH
        return f"resnet{depth}" + ("" if factor == 1 else f"x{factor:g}")
    return f"resnet{depth}" + ("" if base_width == 64 else f"w{base_width}")


def width_channels(channels: int, width: float) -> int:
    """Channels that a width leaves of `channels`.

    Raises:
        ValueError: They are not a whole number, or none.
    """
    count = round(channels * width)
    if count < 1 or abs(channels * width - count) > 1e-6:
        raise ValueError(f"width {width} of {channels} channels is {channels * width:g}, not a whole number")
    return count
