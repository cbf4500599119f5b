"""Train and test: the two names every data set knows, and the hold-out of sets that come without a split."""

from ddpm_lab.errors import UserError


def is_train(split: str) -> bool:
    """Tell train from test.

    Raises:
        ValueError: for any other name.

    """
    if split not in ("train", "test"):
        raise UserError(f'The split is "train" or "test" and got {split!r}.')
    return split == "train"


def hold_out(n: int, split: str, every: int) -> list[int]:
    """Return the indices of one split: item i is test where i % every == every - 1, else train.

    Args:
        n: number of items.
        split: "train" or "test".
        every: one item in so many is held out.

    Returns:
        Indices in ascending order. The two splits are disjoint and together 0 .. n-1.

    """
    train = is_train(split)
    return [i for i in range(n) if (i % every != every - 1) == train]
