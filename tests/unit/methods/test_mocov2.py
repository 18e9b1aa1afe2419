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
    whole.after_step(), parts.after_step()
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
        one.after_step()
    assert one.queue_pointer == 8  # 32 keys in a queue of 24
    assert not any(torch.equal(one.queue[:, column], start[:, column]) for column in range(24))
    torch.testing.assert_close(one.queue.norm(dim=0), torch.ones(24))


def test_the_order_of_keys_follows_seed_and_step():
    """Batch norm in parts sees other keys together when the order is another one, and the same when it is the same."""
    views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
    labels = torch.zeros(8, dtype=torch.long)

    def loss(seed, step):
        return method(bn_splits=2, seed=seed).train()(views, labels, 0.0, step).loss.item()

    torch.manual_seed(1)
    first = loss(0, 3)
    torch.manual_seed(2)  # the global generator has no say
    assert loss(0, 3) == first
    assert len({first, loss(0, 4), loss(1, 3)}) == 3


def test_each_sub_network_may_have_its_own_view():
    shared, own = method().eval(), method().eval()
    query, key, other = (torch.randn(4, 3, 32, 32) for _ in range(3))
    labels = torch.zeros(4, dtype=torch.long)
    plain = shared([query, key], labels, 0.0).widths
    mixed = own([query, key, other], labels, 0.0).widths
    alone = method().eval()([other, key], labels, 0.0).widths
    assert mixed[1.0].loss.item() == plain[1.0].loss.item()
    assert mixed[0.5].loss.item() == alone[0.5].loss.item() != plain[0.5].loss.item()
