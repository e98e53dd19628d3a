"""Pretraining seeds: a backbone with `seeds: [0, 1]` stands for NAME@0 and NAME@1, one pretraining each.

A seed of a pretraining is a replication of its method: NAME@SEED is its name in stages, results and analyses. A
backbone that is listed under such a name in the chain file is treated the same.
"""

from dataclasses import replace

from tools.chain.plan.config import Backbone, ChainConfig
from transfer.results.seeds import seed_name, select_backbones

SEED_KEY = "run.seed"
"""The config key of tools.pretrain_encoder that holds the seed."""


def expand_seeds(config: ChainConfig) -> ChainConfig:
    """Return the chain with every backbone that lists seeds replaced by one backbone per seed.

    `protocols.NAME.backbones` may name a method, which means all its seeds, or one seed.
    """
    backbones: dict[str, Backbone] = {}
    for name, backbone in config.backbones.items():
        if not backbone.seeds:
            backbones[name] = backbone
        for seed in backbone.seeds:
            words = (*backbone.set, f"{SEED_KEY}={seed}")
            backbones[seed_name(name, seed)] = replace(backbone, set=words, seeds=())
    protocols = {
        name: replace(protocol, backbones=select_backbones(protocol.backbones, backbones))
        for name, protocol in config.protocols.items()
    }
    return replace(config, backbones=backbones, protocols=protocols)
