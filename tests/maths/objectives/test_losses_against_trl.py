"""Where TRL has an objective, ours is TRL's, in value and gradient, to 1e-6."""

import pytest
import torch
from support.trl_losses import PEERS, compare, compare_rewards

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's experimental modules announce themselves

seeds = pytest.mark.parametrize("seed", range(3))


def assert_same(results, rtol=0.0):
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-6)
    assert results[0][1].abs().max() > 1e-4


@seeds
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.name}: {peer.words}")
def test_it_is_trls_loss_and_gradient(peer, seed):
    assert_same(compare(peer, seed), peer.rtol)


@seeds
@pytest.mark.parametrize("name", ["bt", "bt-margin"])
def test_bt_and_bt_margin_of_the_reward_trainer(name, seed):
    assert_same(compare_rewards(name, seed))
