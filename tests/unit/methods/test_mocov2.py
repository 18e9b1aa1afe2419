"""MoCo v2: the queue, and batches computed in parts."""

import copy

import pytest
import torch

from slimclr.losses import loss_weights
from slimclr.methods import MoCoV2, SubNetworkLoss
from slimclr.nn import SlimmableResNet

WIDTHS = (1.0, 0.5)


def method(**options):
    torch.manual_seed(0)
    combine = SubNetworkLoss(loss_weights("equal", WIDTHS))
    return MoCoV2(SlimmableResNet(14, 8, WIDTHS), dim=16, queue=24, combine=combine, **options)


def test_keys_come_back_in_the_order_of_their_queries():
    # In eval mode batch norm does not look at the batch, so parts and shuffling must not change anything.
    whole, parts = method().eval(), method(bn_splits=4).eval()
    views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
    labels = torch.zeros(8, dtype=torch.long)
    first, second = whole(views, labels, 0.0), parts(views, labels, 0.0)
    torch.testing.assert_close(first.loss, second.loss)
    torch.testing.assert_close(whole.queue, parts.queue)


def test_batch_norm_sees_one_part_at_a_time():
    whole, parts = method().train(), method(bn_splits=4).train()
    views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
    labels = torch.zeros(8, dtype=torch.long)
    assert whole(views, labels, 0.0).loss.item() != pytest.approx(parts(views, labels, 0.0).loss.item())
    counts = [name for name in parts.state_dict() if name.endswith("bn1.norms.1_0.num_batches_tracked")]
    assert counts
    assert all(parts.state_dict()[name] == 4 for name in counts)


def test_the_queue_wraps_and_forgets_the_oldest():
    one = method().train()
    start = copy.deepcopy(one.queue)
    labels = torch.zeros(16, dtype=torch.long)
    for _ in range(2):
        one([torch.randn(16, 3, 32, 32), torch.randn(16, 3, 32, 32)], labels, 0.0)
    assert one.queue_pointer == 8  # 32 keys in a queue of 24
    assert not any(torch.equal(one.queue[:, column], start[:, column]) for column in range(24))
    torch.testing.assert_close(one.queue.norm(dim=0), torch.ones(24))
