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


def views_of(images):
    return [torch.randn(images, 3, 32, 32) for _ in range(2)]


def take_step(method, batches, step=0):
    """Loss of a step, averaged over its batches."""
    method.before_step(0.0, step, batches)
    losses = [method(views, torch.zeros(len(views[0]), dtype=torch.long), 0.0).loss for views in batches]
    method.after_step()
    return torch.stack(losses).mean().item()


def in_parts(views, parts):
    return list(zip(*(view.chunk(parts) for view in views), strict=True))


def test_keys_come_back_in_the_order_of_their_queries():
    # In eval mode batch norm does not look at the batch, so parts and shuffling must not change anything.
    whole, parts = method().eval(), method().eval()
    views = views_of(8)
    assert take_step(whole, [views]) == pytest.approx(take_step(parts, in_parts(views, 4)), rel=1e-5)
    torch.testing.assert_close(whole.queue, parts.queue)


def test_every_batch_of_keys_has_images_of_every_batch_of_queries():
    one = method().train()
    seen = []
    one.key_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()))
    marked = [torch.full((8, 3, 32, 32), float(batch)) for batch in range(4)]
    take_step(one, [[torch.randn(8, 3, 32, 32), keys] for keys in marked])
    assert [len(images) for images in seen] == [8, 8, 8, 8]
    assert all(len(set(images)) > 1 for images in seen)
    assert sorted(mark for images in seen for mark in images) == sorted([0.0, 1.0, 2.0, 3.0] * 8)


def test_the_queue_wraps_and_forgets_the_oldest():
    one = method().train()
    start = copy.deepcopy(one.queue)
    for step in range(2):
        take_step(one, [views_of(16)], step)
    assert one.queue_pointer == 8  # 32 keys in a queue of 24
    assert not any(torch.equal(one.queue[:, column], start[:, column]) for column in range(24))
    torch.testing.assert_close(one.queue.norm(dim=0), torch.ones(24))


def test_the_order_of_keys_follows_seed_and_step():
    """Batch norm sees other keys together when the order is another one, and the same when it is the same."""
    batches = in_parts(views_of(8), 2)
    torch.manual_seed(1)
    first = take_step(method(seed=0).train(), batches, 3)
    torch.manual_seed(2)  # the global generator has no say
    assert take_step(method(seed=0).train(), batches, 3) == first
    assert (
        len({first, take_step(method(seed=0).train(), batches, 4), take_step(method(seed=1).train(), batches, 3)}) == 3
    )


def test_each_sub_network_may_have_its_own_view():
    shared, own = method().eval(), method().eval()
    query, key, other = (torch.randn(4, 3, 32, 32) for _ in range(3))
    labels = torch.zeros(4, dtype=torch.long)
    other_key = method().eval()
    for one, views in ((shared, [query, key]), (own, [query, key, other]), (other_key, [other, key])):
        one.before_step(0.0, 0, [views])
    plain = shared([query, key], labels, 0.0).widths
    mixed = own([query, key, other], labels, 0.0).widths
    alone = other_key([other, key], labels, 0.0).widths
    assert mixed[1.0].loss.item() == plain[1.0].loss.item()
    assert mixed[0.5].loss.item() == alone[0.5].loss.item() != plain[0.5].loss.item()
