from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from umt_pipeline.evaluation.attentive import ClipTokens, _Probes, attentive_probe
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import AttentiveConfig, LinearConfig
from umt_pipeline.evaluation.probes import Labelled, linear_probe

CPU = torch.device("cpu")
CONFIG = AttentiveConfig(lr=(0.001, 0.01), heads=2, epochs=12, batch_size=32)


def needles(clips: int, seed: int, tokens: int = 24, width: int = 16) -> Labelled[ClipTokens]:
    """One token in each clip carries a mark and the class; the others carry the same classes at random, without the mark."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 4, clips)
    classes = rng.integers(0, 4, (clips, tokens))
    place = rng.integers(0, tokens, clips)
    classes[np.arange(clips), place] = target
    made = 3.0 * np.eye(width)[classes] + 0.3 * rng.normal(size=(clips, tokens, width))
    made[np.arange(clips), place, 5] += 6.0
    labels = np.array([f"class {number}" for number in target])
    return Labelled(ClipTokens(torch.from_numpy(made).half(), np.arange(clips)), labels)


def means(part: Labelled[ClipTokens]) -> Labelled[np.ndarray]:
    return Labelled(part.inputs.tokens_RVD.float().mean(1).numpy(), part.labels)


NO_TOKENS = ClipTokens(torch.zeros(0, 1, 1, dtype=torch.float16), np.array([], dtype=np.int64))
EMPTY = Labelled(NO_TOKENS, np.array([], dtype=str))


def test_finds_the_one_token_that_the_mean_loses() -> None:
    train, validation, test = needles(400, 1), needles(80, 2), needles(100, 3)
    long = CONFIG.model_copy(update={"lr": (0.03, 0.1), "epochs": 30})
    found = attentive_probe(train, validation, test, long, 0, CPU)
    pooled = linear_probe(means(train), means(validation), means(test), LinearConfig())
    assert found.accuracy > 90
    assert pooled.accuracy < 60
    assert found.classes == 4


def test_a_folded_query_is_cross_attention() -> None:
    torch.manual_seed(0)
    heads, dim, width = 2, 8, 4
    probes = _Probes(1, dim, heads, 3)
    nn.init.normal_(probes.query_M[0])
    tokens = torch.randn(5, 7, dim)
    normed = F.layer_norm(tokens, (dim,))
    # Plain cross-attention of one query, its keys being the tokens themselves, one head after the other.
    read = []
    for head in range(heads):
        query = probes.query_M[0][head].expand(5, 1, dim)
        values = normed @ probes.value_M[0][head]
        read.append(F.scaled_dot_product_attention(query, normed, values).squeeze(1))
    assert read[0].shape == (5, width)
    expected = torch.cat(read, dim=1) @ probes.weight_M[0] + probes.bias_M[0]
    torch.testing.assert_close(probes(tokens)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_learning_rates_trained_together_are_those_trained_alone() -> None:
    train, validation, test = needles(100, 1), needles(40, 2), needles(40, 3)
    short = CONFIG.model_copy(update={"epochs": 3, "lr": (0.003, 0.0001)})
    together = attentive_probe(train, validation, test, short, 0, CPU)
    alone = [
        attentive_probe(train, validation, test, short.model_copy(update={"lr": (rate,)}), 0, CPU) for rate in sorted(short.lr)
    ]
    best = max(alone, key=lambda result: result.validation_accuracy or 0.0)
    assert together == best
    assert together == attentive_probe(train, validation, test, short, 0, CPU)


def test_a_rate_that_diverges_is_not_chosen_and_spoils_no_other() -> None:
    train, validation, test = needles(200, 1), needles(40, 2), needles(40, 3)
    mixed = attentive_probe(train, validation, test, CONFIG.model_copy(update={"lr": (0.01, 1e30)}), 0, CPU)
    assert mixed == attentive_probe(train, validation, test, CONFIG.model_copy(update={"lr": (0.01,)}), 0, CPU)
    assert mixed.setting == 0.01


def test_the_rate_is_chosen_on_validation_alone() -> None:
    train, validation, test = needles(100, 1), needles(40, 2), needles(40, 3)
    shuffled = dataclasses.replace(test, labels=np.roll(test.labels, 1))
    one, other = (attentive_probe(train, validation, part, CONFIG, 0, CPU) for part in (test, shuffled))
    assert (one.setting, one.validation_accuracy) == (other.setting, other.validation_accuracy)
    blind = attentive_probe(train, EMPTY, test, CONFIG, 0, CPU)
    assert (blind.setting, blind.validation_accuracy) == (0.01, None)


def test_failed_clips_are_wrong_and_rows_are_the_splits_own() -> None:
    train, validation, test = needles(200, 1), needles(40, 2), needles(50, 3)
    half = dataclasses.replace(test.inputs, rows_S=test.inputs.rows_S[::2])
    some = dataclasses.replace(test, inputs=half, labels=test.labels[::2])
    whole = attentive_probe(train, validation, some, CONFIG, 0, CPU)
    failed = attentive_probe(train, validation, dataclasses.replace(some, failures=25), CONFIG, 0, CPU)
    assert failed.accuracy == pytest.approx(whole.accuracy / 2)


def test_nothing_to_measure() -> None:
    train = needles(20, 1)
    with pytest.raises(NoDataError, match="test clip"):
        attentive_probe(train, EMPTY, EMPTY, CONFIG, 0, CPU)
    with pytest.raises(NoDataError, match="'only'"):
        attentive_probe(dataclasses.replace(train, labels=np.full(20, "only")), EMPTY, train, CONFIG, 0, CPU)
    with pytest.raises(NoDataError, match="found none"):
        attentive_probe(EMPTY, EMPTY, train, CONFIG, 0, CPU)
