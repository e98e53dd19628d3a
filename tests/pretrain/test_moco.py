"""MoCo's order of a step: update the key encoder, compute the loss with the old queue, enqueue the new keys."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.encoder import build_encoder
from pretrain.loss import contrastive_loss
from pretrain.moco import MoCo
from pretrain.runtime.randomness import make_generators
from pretrain.train import prepare, take_step

MODEL = ModelConfig(arch="resnet18", dim=8, queue_len=12, momentum=0.9)


def make_batch(size: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(2)]
    return {"query": views[0], "key": views[1], "index": torch.arange(size), "label": torch.arange(size) % 2}


def make_run(tmp_path: object, mixing: MixingConfig | None = None, **run: object):
    config = PretrainConfig(
        model=MODEL,
        mixing=mixing or MixingConfig(),
        optimizer=OptimizerConfig(lr=0.1),
        run=RunConfig(out=str(tmp_path), batch_size=4, **run),
    )
    return prepare(config, torch.device("cpu"))


def test_encoders_begin_equal_and_the_queue_has_unit_rows() -> None:
    model = MoCo(MODEL, MixingConfig())
    for query, key in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(query, key)
        assert not key.requires_grad
    assert torch.allclose(model.queue.keys.norm(dim=1), torch.ones(12))


def test_head_with_batch_norm_spreads_embeddings_that_a_plain_head_does_not() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 32, 32)
    cosines = {}
    for head in ("mlp", "mlp_bn"):
        encoder = build_encoder(replace(MODEL, arch="resnet50", dim=32, head=head)).train()
        with torch.no_grad():
            q = F.normalize(encoder(images), dim=1)
        cosines[head] = (q @ q.T)[~torch.eye(64, dtype=torch.bool)].mean().item()
    assert cosines["mlp"] > 0.5, "a newly initialised MoCo-v2 maps all images to similar embeddings"
    assert abs(cosines["mlp_bn"]) < 0.05


def test_key_encoder_is_the_moving_average() -> None:
    model = MoCo(MODEL, MixingConfig())
    before = [parameter.detach().double().clone() for parameter in model.encoder_k.parameters()]
    with torch.no_grad():
        for parameter in model.encoder_q.parameters():
            parameter.add_(1.0)
    statistics = model.encoder_k.bn1.running_mean.clone()
    model.update_key_encoder()
    for old, key, query in zip(before, model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True):
        assert torch.allclose(key.double(), 0.9 * old + 0.1 * query.double(), atol=1e-6)
    assert torch.equal(model.encoder_k.bn1.running_mean, statistics)


def test_loss_is_computed_before_the_new_keys_are_enqueued() -> None:
    model = MoCo(MODEL, MixingConfig()).train()
    old = model.queue.keys.clone()
    im_q, im_k = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    index = torch.arange(4)
    generators = make_generators(0, 0, torch.device("cpu"))
    output, keys = model(im_q, im_k, index, index, generators=generators, mixing_on=False)
    assert torch.equal(model.queue.keys, old), "the forward pass does not change the queue"
    q = F.normalize(model.encoder_q(im_q), dim=1)
    expected = contrastive_loss(q, keys, old, temperature=0.2).loss
    assert torch.allclose(output.loss, expected, atol=1e-5)


def test_step_updates_the_key_encoder_before_encoding_and_enqueues_the_keys_last(tmp_path) -> None:
    run = make_run(tmp_path)
    model = run.model
    with torch.no_grad():
        model.encoder_q.fc[2].weight.mul_(3.0)
    weight_k = model.encoder_k.fc[2].weight.clone()
    take_step(run, make_batch(), rate=0.0, mixing_on=False)
    expected = 0.9 * weight_k + 0.1 * model.encoder_q.fc[2].weight
    assert torch.allclose(model.encoder_k.fc[2].weight, expected, atol=1e-6)
    assert int(model.queue.pointer) == 4
    assert model.queue.indices[:4].tolist() == [0, 1, 2, 3]
    assert model.queue.labels[:4].tolist() == [0, 1, 0, 1]
    from pretrain.input.views import finish_on_device

    model.encoder_k.train()
    keys = F.normalize(model.encoder_k(finish_on_device(make_batch())[1]), dim=1)
    assert torch.allclose(model.queue.keys[:4], keys, atol=1e-5), "the keys come from the updated encoder"


def test_oracle_removes_the_querys_class_from_the_denominator(tmp_path) -> None:
    run = make_run(tmp_path, MixingConfig(oracle=True))
    take_step(run, make_batch(), rate=0.0, mixing_on=False)
    label = run.model.queue.labels[0]
    excluded = run.model.queue.labels == label
    q, k = torch.eye(8)[:1], torch.eye(8)[:1]
    full = contrastive_loss(q, k, run.model.queue.keys, temperature=0.2).loss
    less = contrastive_loss(q, k, run.model.queue.keys, temperature=0.2, exclude=excluded[None]).loss
    assert less < full


def test_one_process_warns_that_keys_cannot_be_shuffled(tmp_path, caplog) -> None:
    with caplog.at_level("WARNING"):
        make_run(tmp_path)
    assert "one process and model.bn_groups=1: keys cannot be shuffled" in caplog.text


def test_groups_of_images_are_independent() -> None:
    images = torch.randn(8, 3, 32, 32)
    other = torch.cat([images[:4], torch.randn(4, 3, 32, 32)])
    for groups, apart in ((2, True), (1, False)):
        model = MoCo(replace(MODEL, bn_groups=groups), MixingConfig()).train()
        with torch.no_grad():
            first, second = (model.encode(model.encoder_q, batch)[:4] for batch in (images, other))
        assert torch.equal(first, second) == apart


def test_groups_let_one_process_encode_keys_in_other_groups_than_their_queries() -> None:
    model = MoCo(replace(MODEL, bn_groups=2), MixingConfig()).train()
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        queries = model.encode(model.encoder_q, images)
        keys = model.encode_keys(images, make_generators(0, 0, torch.device("cpu")))
        unshuffled = model.encode(model.encoder_k, images)
    assert torch.allclose(queries, unshuffled, atol=1e-5), "the same encoder, the same images, the same groups"
    assert keys.shape == queries.shape
    assert not torch.allclose(queries, keys, atol=1e-4)


def test_gradient_accumulation_enqueues_every_key_once(tmp_path) -> None:
    from dataclasses import replace

    run = make_run(tmp_path)
    run.config = replace(run.config, engine=replace(run.config.engine, max_batch_per_rank=2))
    output = take_step(run, make_batch(), rate=0.1, mixing_on=False)
    assert int(run.model.queue.pointer) == 4
    assert run.model.queue.indices[:5].tolist() == [0, 1, 2, 3, -1]
    assert output.hits.shape == (4,)


def test_recomputed_activations_give_the_same_gradient() -> None:
    from pretrain.encoder import build_encoder, recompute_in_backward

    torch.manual_seed(0)
    encoder = build_encoder(MODEL).train()
    images = torch.randn(4, 3, 32, 32)
    encoder(images).sum().backward()
    expected = [parameter.grad.clone() for parameter in encoder.parameters()]
    names = list(encoder.state_dict())
    encoder.zero_grad()
    recompute_in_backward(encoder)
    encoder(images).sum().backward()
    assert list(encoder.state_dict()) == names
    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
