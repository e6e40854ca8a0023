"""Compare our policy gradient with TRL's GRPOTrainer on the same log-probs and responses.

TRL's own methods compute everything from the rewards to the loss of each accumulation step. Only the
model is replaced by a table of log-probs, so that the gradient of each token's log-prob can be read.

The normalisations correspond as follows, for B responses in S accumulation steps of B/S each:
    grpo, gspo, dual_clip: TRL takes the mean within each response, the mean over a step's
        responses, and divides by S. Ours is the mean over prompts; both are equal because all steps
        have B/S responses, and all prompts as many.
    dapo, cispo: TRL divides the sum over tokens by the completion tokens of all S steps together (not
        of each step), as our token_mean does.
    dr_grpo: TRL divides the sum over tokens by (B/S) x max_completion_length x S, ours by
        B x max_new_tokens.

In TRL `loss_type` sets no more than this; the test sets the clip and the reward scaling beside it.
TRL has no setting of its own for REINFORCE++; RLOO is a trainer of its own, whose ratio is that of
the whole response, so that both agree on policy.
"""

from types import SimpleNamespace

import pytest
import torch

from custom_components.engines.engine import Completion
from custom_components.losses.policy_gradient import SETTINGS, ImportanceConfig, LossConfig
from custom_components.models.start import random_tiny
from custom_components.rl.advantages import group_advantages
from custom_components.rl.groups import Sample
from custom_components.rl.learning import Learner, response_tokens
from custom_components.rl.rewards import Reward
from custom_components.runs.metrics import Sums

LENGTHS = [3, 8, 5, 1, 12, 7]
REWARDS = [1.0, -1.0, -0.75, 1.0, 1.0, -0.5]
GROUP = 3  # Responses to a prompt.
LONGEST = 16  # Longer than every response: dr_grpo's constant does not depend on their lengths.
CAP = 2.0
PROMPT = [1, 2]
# Each token occurs once, so that its id is its place in a table of log-probs.
IDS = [ids.tolist() for ids in torch.arange(sum(LENGTHS)).split(LENGTHS)]
# The ratios lie below, between and above the bounds 0.8, 1.2 and 1.28.
RATIOS = torch.tensor([0.5, 0.75, 0.9, 1.1, 1.25, 1.6]).repeat(sum(LENGTHS) // 6)
NAMES = ["grpo", "dapo", "dr_grpo", "cispo", "gspo", "dual_clip"]
# Bounds that some of the ratios exceed, where a setting's own are too far off.
BOUNDS = {
    "cispo": {"clip_high": 0.2},
    "gspo": {"clip_low": 0.02, "clip_high": 0.02},
    "dual_clip": {"dual_clip": 1.5},
}
# Our token weights are float32; everything else is float64 on both sides.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


@pytest.fixture
def data():
    """Return the log-probs of every token, float64, by four models.

    The values fit in float32, in which both sides keep the engine's.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, sum(LENGTHS), generator=generator)
    policy = -2 - noise[0].abs()
    old = policy - RATIOS.log()
    return SimpleNamespace(
        policy=policy.double(),
        old=old.double(),
        engine=(old + noise[1]).double(),
        reference=(policy + noise[2] / 2).double(),
    )


def setting_of(name):
    """Return a setting of ours with the bounds of this test."""
    return LossConfig(name, **BOUNDS.get(name, {})).resolve()


class Table(torch.nn.Module):
    """Answer what TRL asks of a model from a table."""

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


@pytest.fixture
def trl_trainer(folder, monkeypatch):
    """Return a function that makes a GRPOTrainer with the values of one of our settings."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Phi3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is experimental.

    def rollout(prompts, trainer):
        logprobs = [trainer.engine[ids].tolist() for ids in IDS]
        return {"prompt_ids": [PROMPT] * len(IDS), "completion_ids": IDS, "logprobs": logprobs}

    def make(name, kl=0.0, **options):
        setting = setting_of(name)
        options = {
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": CAP,
        } | options
        args = GRPOConfig(
            output_dir=str(folder / "trl"),
            loss_type=name if name in ("dapo", "dr_grpo", "cispo") else "grpo",
            epsilon=setting.clip_low,
            # Of a weight it is the bound itself, not its distance from 1.
            epsilon_high=setting.clip_high + (setting.clip == "weight"),
            delta=setting.dual_clip if name == "dual_clip" else None,
            importance_sampling_level=setting.ratio,
            scale_rewards="group" if setting.scale == "group_std" else "none",
            beta=kl,
            max_completion_length=LONGEST,
            num_generations=GROUP,
            per_device_train_batch_size=len(LENGTHS) // 2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            **options,
        )
        return GRPOTrainer(
            Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32),
            args=args,
            processing_class=AutoTokenizer.from_pretrained(folder),
            rollout_func=rollout,
            reward_funcs=lambda completion_ids, **_: [
                REWARDS[IDS.index(i)] for i in completion_ids
            ],
            train_dataset=Dataset.from_dict({"prompt": ["1+2=?"]}),
        )

    return make


def trl_loss(trainer, data, correct=False):
    """Return (loss, gradient [tokens], advantages of the responses) by TRL."""
    trainer.model, trainer.ref_model = Table(data.old), Table(data.reference)
    trainer.engine = data.engine
    # After construction the flag starts no vLLM, but still switches the correction.
    trainer.use_vllm, trainer._last_loaded_step = correct, 0
    steps = trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    policy = data.policy.clone().requires_grad_()
    total, advantages = 0.0, {}
    for trainer._step in range(steps):  # TRL samples for all steps in the first one.
        inputs = trainer._prepare_inputs([{"prompt": "1+2=?"}] * len(IDS))
        trainer.model.logprobs = policy
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        total += loss.detach()
        first = inputs["completion_ids"][:, 0].tolist()
        advantages |= zip(first, inputs["advantages"].tolist(), strict=True)
    return total, policy.grad, [advantages[ids[0]] for ids in IDS]


def our_loss(name, data, advantages, kl=0.0, on_policy=False, importance=None):
    """Return our (loss, gradient [tokens]), in micro-batches other than TRL's."""
    policy = data.policy.clone().requires_grad_()

    def forward_logprobs(batch, model=None):
        logprobs = (policy if model is None else model)[batch.targets.clamp(min=0)]
        return logprobs, torch.zeros_like(logprobs)

    trainer = SimpleNamespace(
        world=SimpleNamespace(size=1, rank=0, device=torch.device("cpu"), gather=list),
        document_costs=lambda rows: [float(sum(row)) for row in rows],
        cfg=SimpleNamespace(
            max_new_tokens=LONGEST,
            max_tokens_per_micro_batch=20,
            importance=importance or ImportanceConfig(high=CAP),
            loss=LossConfig(name, kl_coefficient=kl),
        ),
    )
    samples = [
        Sample(
            PROMPT,
            Completion(ids, data.engine[ids].tolist(), "stop"),
            "",
            "correct",
            Reward(1.0, [1.0]),
            advantage,
            group=i // GROUP,
        )
        for i, (ids, advantage) in enumerate(zip(IDS, advantages, strict=True))
    ]
    learner, sums = Learner(trainer, setting_of(name)), Sums()

    def logprobs_by(model, batch):
        return response_tokens(batch, forward_logprobs(batch.inputs, model)).logprobs

    batches = learner.policy_batches(samples)
    assert len(batches) > 2
    for batch in batches:
        if not on_policy:
            batch.old_logprobs = logprobs_by(data.old, batch)
        if kl:
            batch.reference_logprobs = logprobs_by(data.reference, batch)
    if trainer.cfg.importance.beyond == "mask":
        learner.weigh(samples, batches)
    total = sum(learner.loss(batch, forward_logprobs(batch.inputs), sums) for batch in batches)
    total.backward()
    return total.detach(), policy.grad


@pytest.mark.parametrize("correct", [False, True], ids=["agreeing", "corrected"])
@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_equals_trl(trl_trainer, data, name, kl, correct):
    """Off-policy, with ratios beyond both bounds of the clip, and TRL's own KL.

    That is k3 times the ratio (DeepSeek-V3.2). The ratio of GSPO in TRL's KL is the response's,
    ours is the token's, so that GSPO is compared without KL.
    """
    kl = 0.0 if name == "gspo" else kl
    if correct:
        assert ((data.old - data.engine).exp() > CAP).any()
    else:  # Ours always corrects, by 1 if the engine agrees.
        data.engine = data.old
    expected, gradient, advantages = trl_loss(
        trl_trainer(name, kl, num_iterations=2), data, correct
    )
    loss, ours = our_loss(name, data, advantages, kl)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(ours, gradient, **CLOSE)
    clipped = {
        "grpo": [0.5, 0.75, 1.25, 1.6],
        "dapo": [0.5, 0.75, 1.6],
        "dr_grpo": [0.5, 0.75, 1.25, 1.6],
        "dual_clip": [0.5, 0.75, 1.25, 1.6],
        "cispo": [],
    }
    if not kl and name in clipped:
        for g in (ours, gradient):
            torch.testing.assert_close(RATIOS[g == 0].unique(), torch.tensor(clipped[name]))
    if name == "gspo":
        whole = [bool((ours[ids] == 0).all()) for ids in IDS]
        assert True in whole and False in whole


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_equals_trl(trl_trainer, data, name):
    """The first update: neither side has old log-probs, and ratios are 1 with a gradient."""
    data.engine = data.policy
    kl = 0.0 if name == "gspo" else 0.3
    expected, gradient, advantages = trl_loss(trl_trainer(name, kl, num_iterations=1), data)
    loss, ours = our_loss(name, data, advantages, kl, on_policy=True)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(ours, gradient, **CLOSE)


MODES = {
    "token_truncate": ImportanceConfig("token", "truncate", 0.6, CAP),
    "token_mask": ImportanceConfig("token", "mask", 0.6, CAP),
    "sequence_truncate": ImportanceConfig("sequence", "truncate", 0.6, CAP),
    "sequence_mask": ImportanceConfig("sequence", "mask", 0.6, CAP),
}


@pytest.mark.parametrize("mode", MODES)
def test_corrections_equal_trl(trl_trainer, data, mode):
    """TRL leaves rejected tokens in the denominator, ours takes them out."""
    low, high = MODES[mode].low, MODES[mode].high
    # Small differences, so that a part of the responses stays within the bounds.
    data.engine = (data.old + 0.4 * (data.engine - data.old)).float().double()
    trainer = trl_trainer(
        "dapo",
        num_iterations=2,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    expected, gradient, advantages = trl_loss(trainer, data, correct=True)
    kept = sum(LENGTHS)
    if mode.endswith("mask"):
        log_ratios = data.old - data.engine
        parts = [log_ratios[ids] for ids in IDS]
        if mode == "sequence_mask":
            parts = [part.sum().expand(len(part)) for part in parts]
        ratios = torch.cat(parts).exp()
        kept = int(((ratios >= low) & (ratios <= high)).sum())
        assert 0 < kept < sum(LENGTHS)
    loss, ours = our_loss("dapo", data, advantages, importance=MODES[mode])
    factor = sum(LENGTHS) / kept
    torch.testing.assert_close(loss, expected * factor, **CLOSE)
    torch.testing.assert_close(ours, gradient * factor, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_advantages_beside_trl(trl_trainer, data, name):
    """TRL divides by the sample's std (n - 1) plus 1e-4, ours by the population's (n).

    With n - 1, +1 and -1 in equal numbers would not give advantages of +1 and -1.
    """
    _, _, theirs = trl_loss(trl_trainer(name, num_iterations=2), data)
    for i in range(0, len(REWARDS), GROUP):
        rewards = REWARDS[i : i + GROUP]
        std = torch.tensor(rewards, dtype=torch.float64).std(correction=0).item()
        factor = std / (std * (GROUP / (GROUP - 1)) ** 0.5 + 1e-4)
        if SETTINGS[name].scale == "none":
            factor = 1.0
        ours = group_advantages(rewards, SETTINGS[name])
        assert [a * factor for a in ours] == pytest.approx(theirs[i : i + GROUP], rel=1e-6)


def test_rloo_on_policy_equals_trl(folder, data, monkeypatch):
    """Its advantages, and its gradient times the longest allowed length."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Phi3ForCausalLM
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(
        output_dir=str(folder / "trl"),
        beta=0.0,
        max_completion_length=LONGEST,
        num_generations=GROUP,
        per_device_train_batch_size=len(LENGTHS),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
    )
    trainer = RLOOTrainer(
        Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=args,
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=lambda completion_ids, **_: [REWARDS[IDS.index(i)] for i in completion_ids],
        train_dataset=Dataset.from_dict({"prompt": ["1+2=?"]}),
    )
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: IDS)
    policy = data.policy.clone().requires_grad_()
    trainer.model, trainer._step = Table(policy), 0
    inputs = trainer._prepare_inputs([{"prompt": "1+2=?"}] * len(IDS))
    trainer.compute_loss(trainer.model, inputs).backward()
    first = inputs["completion_ids"][:, 0].tolist()
    theirs = dict(zip(first, inputs["advantages"].tolist(), strict=True))
    advantages = [theirs[ids[0]] for ids in IDS]
    for i in range(0, len(REWARDS), GROUP):
        ours = group_advantages(REWARDS[i : i + GROUP], SETTINGS["rloo"])
        assert ours == pytest.approx(advantages[i : i + GROUP], rel=1e-6)
    data.engine = data.policy
    _, gradient = our_loss("rloo", data, advantages, on_policy=True)
    torch.testing.assert_close(gradient * LONGEST, policy.grad, **CLOSE)
