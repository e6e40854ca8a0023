"""Our policy gradient beside TRL's GRPOTrainer: the same log-probs, rewards and splits.

TRL's own methods go all the way from the rewards to the loss of each accumulation step; only the
model is a table of log-probs, so that the gradient of each token's log-prob can be read off.

How the normalisations correspond, for B responses in S accumulation steps of B/S each:
    grpo: mean within each response, mean over a step's responses, divided by S. Ours is the mean
        over all B at once; equal because TRL's steps have equally many responses.
    dapo: sum over tokens, divided by the completion tokens of all steps together (not of each
        step), as our token_mean is.
    dr_grpo: sum over tokens, divided by (B/S) x max_completion_length x S; ours by
        B x max_new_tokens.
TRL calls by `loss_type` only the aggregation: clip and reward scaling are set beside it here.
"""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from custom_components.losses.policy_gradient import SETTINGS, LossConfig
from custom_components.models.start import random_tiny
from custom_components.rl.advantages import group_advantages
from custom_components.rl.learning import logprobs_of, loss_terms, policy_batches
from custom_components.rl.samples import Sample
from custom_components.rollout.engine import Completion

LENGTHS = [3, 8, 5, 1, 12, 7]
REWARDS = [1.0, -1.0, -0.75, 1.0, 1.0, -0.5]
GROUP = 3  # responses to a prompt
LONGEST = 16  # more than any response has, as dr_grpo's constant does not depend on them
CAP = 2.0
PROMPT = [1, 2]
# each token occurs once, so its id is its place in a table of log-probs
IDS = [ids.tolist() for ids in torch.arange(sum(LENGTHS)).split(LENGTHS)]
NAMES = ["grpo", "dapo", "dr_grpo"]


def tables():
    """Log-probs of every token by policy, old policy, engine and reference, float64.

    Their values fit in float32, which both sides round the engine's to.
    """
    generator = torch.Generator().manual_seed(0)
    policy, engine, reference = torch.randn(3, sum(LENGTHS), generator=generator)
    policy = -policy.abs() - 0.1
    # below, between and above the bounds 0.8, 1.2 and 1.28
    ratios = torch.tensor([0.5, 0.75, 0.9, 1.1, 1.25, 1.6]).repeat(sum(LENGTHS) // 6)
    old = policy - ratios.log()
    values = policy, old, old + engine, policy + reference / 2
    return SimpleNamespace(
        **{k: v.double() for k, v in zip(("policy", "old", "engine", "reference"), values)}
    )


class Table(torch.nn.Module):
    """What TRL asks of a model, answered from a table."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs):
        super().__init__()
        self.logprobs = logprobs

    def forward(self, input_ids, attention_mask, labels, fused_lm_head):
        logprobs = torch.where(labels < 0, 0, self.logprobs[labels.clamp(min=0)])
        return SimpleNamespace(log_probs=logprobs, entropy=torch.zeros_like(logprobs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    random_tiny(path)
    return path


def trl_trainer(folder, monkeypatch, name, engine, **options):
    """A GRPOTrainer with our setting's values that is given the responses and rewards above."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Phi3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is experimental
    setting = SETTINGS[name]
    args = GRPOConfig(
        output_dir=str(folder / "trl"), loss_type=name, epsilon=setting.clip_low,
        epsilon_high=setting.clip_high, scale_rewards="group" if setting.normalise_std else "none",
        max_completion_length=LONGEST, num_generations=GROUP,
        per_device_train_batch_size=len(LENGTHS) // 2, gradient_accumulation_steps=2,
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=CAP,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], **options,
    )  # fmt: skip

    def rollout(prompts, trainer):
        logprobs = [engine[ids].tolist() for ids in IDS]
        return {"prompt_ids": [PROMPT] * len(IDS), "completion_ids": IDS, "logprobs": logprobs}

    return GRPOTrainer(
        Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32), args=args,
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=lambda completion_ids, **_: [REWARDS[IDS.index(i)] for i in completion_ids],
        train_dataset=Dataset.from_dict({"prompt": ["1+2=?"]}), rollout_func=rollout,
    )  # fmt: skip


def trl_loss(trainer, data, correct):
    """(loss, gradient [tokens], advantages of the responses) by TRL."""
    trainer.model = Table(data.old)
    trainer.ref_model = Table(data.reference)
    # there is no vLLM to start; all that the flag does from here on is the correction
    trainer.use_vllm, trainer._last_loaded_step = correct, 0
    steps = trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    policy = data.policy.clone().requires_grad_()
    total, advantages = 0.0, {}
    for trainer._step in range(steps):
        inputs = trainer._prepare_inputs([{"prompt": "1+2=?"}] * len(IDS))
        trainer.model.logprobs = policy
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        total += loss.item()
        first = inputs["completion_ids"][:, 0].tolist()
        advantages |= zip(first, inputs["advantages"].tolist(), strict=True)
    return total, policy.grad, [advantages[ids[0]] for ids in IDS]


def our_loss(name, data, advantages, kl, old=True):
    """(loss, gradient [tokens], clipped share) by us, in micro-batches that are not TRL's."""
    policy = data.policy.clone().requires_grad_()

    def forward_logprobs(batch, model, **_):
        logprobs = (policy if model is None else model)[batch.targets.clamp(min=0)]
        return logprobs, torch.zeros_like(logprobs)

    trainer = SimpleNamespace(
        forward_logprobs=forward_logprobs,
        world=SimpleNamespace(size=1, rank=0, device=torch.device("cpu")),
        cfg=SimpleNamespace(max_new_tokens=LONGEST, max_tokens_per_micro_batch=20,
                            importance_cap=CAP, loss=LossConfig(name, kl_coefficient=kl)),
    )  # fmt: skip
    samples = [
        Sample(PROMPT, Completion(ids, data.engine[ids].tolist(), "stop"), "", advantage=advantage)
        for ids, advantage in zip(IDS, advantages, strict=True)
    ]
    batches = policy_batches(trainer, samples, SETTINGS[name])
    assert len(batches) > 2
    for batch in batches:
        if old:
            batch.old_logprobs = logprobs_of(trainer, batch, 1.0, data.old)[0]
        if kl:
            batch.reference_logprobs = logprobs_of(trainer, batch, 1.0, data.reference)[0]
    sums = Counter()
    total = sum(loss_terms(trainer, batches, SETTINGS[name], 1.0, sums))
    total.backward()
    return total.item(), policy.grad, sums["clip_fraction"]


@pytest.mark.parametrize("correct", [False, True], ids=["", "importance"])
@pytest.mark.parametrize("kl", [0.0, 0.3], ids=["", "kl"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_trl(folder, monkeypatch, name, kl, correct):
    data = tables()
    if not correct:  # ours always corrects; weight 1 where the engine agrees
        data.engine = data.old
    trainer = trl_trainer(folder, monkeypatch, name, data.engine, beta=kl, num_iterations=2)
    expected, gradient, advantages = trl_loss(trainer, data, correct)
    loss, ours, clipped = our_loss(name, data, advantages, kl)
    print(name, kl, correct, loss, expected, loss - expected, (ours - gradient).abs().max().item(), ((ours - gradient)/gradient).nan_to_num().abs().max().item(), clipped, (gradient==0).sum(), advantages)
