"""Encoder outputs and whole training steps of a ResNet-50 against the reference's figures (tests/golden/open.json)."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from golden_inputs import backbone_names, fill, head_names, images, norm_names, tensor

from slimclr.losses import kl_distillation, loss_weights
from slimclr.methods import MoCoV2, MoCoV3, SimCLR, SubNetworkLoss
from slimclr.methods.base import Encoder
from slimclr.nn import SlimmableLinear, SlimmableMLP, SlimmableResNet, SwitchableLinear
from slimclr.optim import LARS

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "open.json").read_text())
DEPTH, WIDTHS = 50, (1.0, 0.75, 0.5, 0.25)
SHAPE = {"depth": DEPTH, "widths": WIDTHS}
SLOW_STEPS = 2  # the third step repeats what the second shows


@pytest.mark.parametrize("case", GOLDEN["encoder"], ids=lambda case: case["name"])
def test_encoder_outputs_equal_the_reference(case):
    backbone, classes = SlimmableResNet(DEPTH, 64, WIDTHS), case["num_classes"]
    heads = {
        "mocov2_slim": lambda: SlimmableMLP(2048, classes, WIDTHS),
        "supervised_switch": lambda: SwitchableLinear(2048, classes, WIDTHS),
        "supervised": lambda: SlimmableLinear(2048, classes, WIDTHS, fixed_out=True),
    }
    encoder = Encoder(backbone, heads[case["fc"]](), normalize=False)
    names = backbone_names(DEPTH, WIDTHS) + head_names(case["fc"], WIDTHS)
    head = case["fc"] if case["fc"] == "mocov2_slim" else None
    fill(encoder, names, "module.encoder_q.", head=head, **SHAPE)
    encoder.eval()
    batch = images(case["tag"], 4, case["size"])
    with torch.no_grad():
        for width in WIDTHS:
            features, output = backbone(batch, width), encoder(batch, width)
            expected = torch.tensor(case["features_head"][str(width)])
            torch.testing.assert_close(features[:, :8], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
            expected = torch.tensor(case["output_head"][str(width)])
            torch.testing.assert_close(output[:, :8], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def build(case):
    """Method, query encoder and the reference's names of its tensors."""
    name, config = case["method"], case["config"]
    distillation = partial(
        kl_distillation, student_temperature=config["student_T"], teacher_temperature=config["teacher_T"]
    )
    weights = loss_weights("sub_sum_to_full", WIDTHS)
    parts = {
        "slow_start_epoch": config["slim_start_epoch"],
        "combine": SubNetworkLoss(weights, distillation, config["aux_loss_w"]),
    }
    backbone, names = SlimmableResNet(DEPTH, 64, WIDTHS), backbone_names(DEPTH, WIDTHS)
    head = config["slim_fc"]
    names += head_names(head, WIDTHS)
    if name == "mocov2":
        method = MoCoV2(backbone, queue=64, **parts)
        ours = fill(method.query_encoder, names, "module.encoder_q.", head=head, **SHAPE)
        method.key_encoder.load_state_dict(method.query_encoder.state_dict())
        method.queue.copy_(tensor("module.queue", (128, 64)))
        return method, method.query_encoder, ours
    if name == "simclr":
        method = SimCLR(backbone, **parts)
        return method, method.encoder, fill(method.encoder, names, "module.encoder_q.", head=head, **SHAPE)
    method = MoCoV3(backbone, epochs=config["num_epochs"], **parts)
    base, predictor = method.query_encoder.base, method.query_encoder.predictor
    ours = fill(base, names, "module.base_encoder.", head=head, **SHAPE)
    predictor_names = ["predictor.0.weight", *norm_names("predictor.1", WIDTHS), "predictor.3.weight"]
    fill(predictor, predictor_names, "module.", head=head, strip="head.", **SHAPE)
    method.key_encoder.load_state_dict(base.state_dict())
    return method, base, ours


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN["training_step"], ids=lambda case: case["case"])
def test_training_steps_equal_the_reference(case):
    method, encoder, ours = build(case)
    method.double().train()
    parameters = dict(encoder.named_parameters())
    if case["optimizer"] == "SGD":
        optimizer = torch.optim.SGD(method.trainable().parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = LARS(method.trainable().parameters(), lr=1.2, momentum=0.9, weight_decay=1e-6, trust=0.001)
    labels = torch.zeros(case["batch"], dtype=torch.long)
    for number, step in enumerate(case["steps"][:SLOW_STEPS]):
        views = [images(f"{view}{number}", case["batch"], 64).double() for view in "qk"]
        method.require_gradients(step["epoch"])
        optimizer.zero_grad()
        output = method(views, labels, step["epoch"])
        output.loss.backward()
        assert output.loss.item() == pytest.approx(step["loss"], rel=1e-6)
        for name, expected in step["grad_norm"].items():
            gradient = parameters[ours[name]].grad
            assert (gradient is None) == (expected is None), name
            if gradient is not None:
                assert gradient.norm().item() == pytest.approx(expected, rel=1e-6), name
        gradients = [p.grad.norm() for p in method.trainable().parameters() if p.grad is not None]
        assert torch.stack(gradients).norm().item() == pytest.approx(step["total_grad_norm"], rel=1e-6)
        optimizer.step()
        for name, expected in step["param_norm_after"].items():
            assert parameters[ours[name]].norm().item() == pytest.approx(expected, rel=1e-6), name
        for name, expected in step["param_sum_after"].items():
            tolerance = 1e-6 * parameters[ours[name]].norm().item()
            assert parameters[ours[name]].sum().item() == pytest.approx(expected, abs=tolerance), name
        if case["method"] == "mocov2":
            assert method.queue_pointer.item() == step["queue_ptr"]
            assert method.queue.abs().sum().item() == pytest.approx(step["queue_abs_sum"], rel=1e-6)
        if case["method"] != "simclr":
            average = dict(method.key_encoder.named_parameters())
            for name, expected in step["momentum_param_norm_after"].items():
                assert average[ours[name]].norm().item() == pytest.approx(expected, rel=1e-6), name
