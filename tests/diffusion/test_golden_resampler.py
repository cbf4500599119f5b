"""The loss-second-moment sampler against the public code."""

import torch

from ddpm_lab.diffusion.timesteps import LossSecondMoment, Uniform
from tests.golden import Golden

GOLDEN = Golden("resampler.npz")


def sampler_after(updates: int, batch: int) -> LossSecondMoment:
    sampler = LossSecondMoment(
        int(GOLDEN["num_timesteps"]), int(GOLDEN["history_per_term"]), float(GOLDEN["uniform_prob"])
    )
    t, loss = GOLDEN["update_t"][:updates] + 1, GOLDEN["update_loss"][:updates]
    for part_t, part_loss in zip(t.split(batch), loss.split(batch), strict=True):
        sampler.update(part_t, part_loss)
    return sampler


def test_probabilities() -> None:
    for i, updates in enumerate(GOLDEN["snapshot_after"].tolist()):
        weights = GOLDEN["snapshot_weights"][i]
        for batch in (1, 7, len(GOLDEN["update_t"])):  # the order within a batch counts, its size does not
            p = sampler_after(updates, batch).probabilities()
            torch.testing.assert_close(p, weights / weights.sum(), rtol=1e-12, atol=0)


def test_importance_weights() -> None:
    sampler = sampler_after(len(GOLDEN["update_t"]), 5)
    p = sampler.probabilities()
    torch.testing.assert_close(1 / (sampler.T * p), GOLDEN["importance_weight_all_t"], rtol=1e-12, atol=0)
    torch.manual_seed(0)
    t, weight = sampler.draw(64)
    torch.testing.assert_close(weight, GOLDEN["importance_weight_all_t"][t - 1].float())
    of_drawn = (1 / (sampler.T * p))[GOLDEN["drawn_t"]]
    torch.testing.assert_close(of_drawn.float(), GOLDEN["drawn_weight"])
    uniform = GOLDEN["uniform_drawn_weight"]
    torch.testing.assert_close(Uniform(sampler.T).draw(len(uniform))[1], uniform)
