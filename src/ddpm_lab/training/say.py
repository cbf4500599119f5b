"""What a run tells the person watching, once and not on every rank."""

from functools import partial

from lightning.pytorch.utilities.rank_zero import rank_zero_only

say = rank_zero_only(partial(print, flush=True))
