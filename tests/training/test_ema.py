"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from umt_pipeline.training.ema import AverageWeights


def test_follows_its_formula() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    average = AverageWeights(model, 0.5)
    assert all(torch.equal(average.weights[name], value) for name, value in start.items())
    expected = start["0.weight"].double()
    for step in range(20):
        with torch.no_grad():
            model[0].weight.normal_()
        model(torch.randn(4, 2))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.double()
    torch.testing.assert_close(average.weights["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(average.weights["0.bias"], start["0.bias"])
    assert average.weights["1.num_batches_tracked"] == 20
    assert not torch.equal(average.weights["1.running_mean"], model[1].running_mean)


def test_another_models_average_is_refused() -> None:
    average = AverageWeights(nn.Linear(2, 2), 0.5)
    with pytest.raises(KeyError, match="bias"):
        average.load(nn.Linear(2, 2, bias=False).state_dict())
    with pytest.raises(RuntimeError, match=r"weight is \(2, 3\), expected \(2, 2\)"):
        average.load(nn.Linear(3, 2).state_dict())
