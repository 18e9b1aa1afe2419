"""Gradient records against a slow way to the same numbers."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from slimclr.analysis.gradients import gradient_record
from slimclr.losses import loss_weights
from slimclr.methods import SubNetworkLoss, Supervised
from slimclr.nn import build_backbone

WIDTHS = (1.0, 0.5, 0.25)


@pytest.fixture
def method():
    torch.manual_seed(0)
    backbone = build_backbone(14, 8, WIDTHS, zero_init_residual=False)
    combine = SubNetworkLoss(loss_weights("sub_sum_to_full", WIDTHS))
    return Supervised(backbone, classes=5, combine=combine).double().train()


def losses(method):
    torch.manual_seed(1)
    output = method([torch.randn(4, 3, 32, 32, dtype=torch.float64)], torch.arange(4), 0.0)
    return output.loss, {width: result.loss for width, result in output.widths.items()}


def shared(method):
    return {name: p for name, p in method.named_parameters() if p.dim() > 1}


def test_the_record_equals_separate_backward_passes(method):
    record = gradient_record(method, losses(method)[1])
    gradients = {}
    for width in (*WIDTHS, None):
        method.zero_grad()
        total, by_width = losses(method)
        (total if width is None else by_width[width]).backward()
        gradients[width] = {name: parameter.grad.clone() for name, parameter in shared(method).items()}

    def part(name, gradient, width):
        rows = gradient.shape[0] if name.startswith("encoder.head") else int(gradient.shape[0] * width)
        return gradient[:rows, : 3 if name.endswith("backbone.conv1.weight") else int(gradient.shape[1] * width)]

    for width in WIDTHS:
        used, rest = [], []
        for name, gradient in gradients[None].items():
            outside = gradient.clone()
            part(name, outside, width).zero_()
            used.append(part(name, gradient, width).norm())
            rest.append(outside.norm())
        got = record["widths"][str(width)]
        assert got["norm_used"] == pytest.approx(torch.stack(used).mean().item())
        assert got["norm_rest"] == pytest.approx(torch.stack(rest).mean().item(), abs=1e-6)
        if width < 1:
            assert got["ratio"] == pytest.approx(got["norm_used"] / got["norm_rest"])
    flat = {
        width: torch.cat([part(name, gradient, 0.25).flatten() for name, gradient in gradients[width].items()])
        for width in (1.0, 0.25)
    }
    assert record["cosine"]["1.0/0.25"] == pytest.approx(cosine_similarity(flat[1.0], flat[0.25], dim=0).item())
    assert set(record["cosine"]) == {"1.0/0.5", "1.0/0.25", "0.5/0.25"}
    values = torch.linalg.svdvals(gradients[None]["encoder.head.weight"])
    assert list(record["last_layer"].values()) == pytest.approx(values[:2].tolist(), rel=1e-5)


def test_the_record_leaves_training_alone(method):
    total, by_width = losses(method)
    gradient_record(method, by_width)
    assert all(parameter.grad is None for parameter in method.parameters())
    total.backward()
    with_record = method.encoder.head.weight.grad.clone()
    method.zero_grad()
    losses(method)[0].backward()
    assert torch.equal(with_record, method.encoder.head.weight.grad)


def test_a_loss_scale_is_taken_out(method):
    plain = gradient_record(method, losses(method)[1])
    scaled = gradient_record(method, {width: 8 * loss for width, loss in losses(method)[1].items()}, scale=8.0)
    assert scaled["widths"]["0.5"] == pytest.approx(plain["widths"]["0.5"])
