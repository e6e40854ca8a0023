"""Compare our DPO with TRL's DPOTrainer on the same model, reference and pairs."""

import pytest
import torch

from custom_components.data.batching import collate
from custom_components.data.packing import encode_pair
from custom_components.losses.dpo import dpo_loss
from custom_components.models.hf import HFCheckpointer, build_from_folder
from custom_components.models.start import random_tiny
from custom_components.tokenizer.chat import ChatTokenizer

PAIRS = [
    ("12+34=?", "<think>2+4=6</think>\\boxed{46}", "\\boxed{45}"),
    ("9+9=?", "\\boxed{18}", "<think>9+9=19</think>\\boxed{19}"),
    ("1+2=?", "3", "it is 4"),
]


def test_dpo_equals_trl(tmp_path):
    from datasets import Dataset
    from transformers import AutoTokenizer, Phi3ForCausalLM
    from trl import DPOConfig, DPOTrainer

    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        random_tiny(tmp_path / str(seed), seed=seed)
    # Below the original context transformers computes the short branch, so ours does here too.
    policy, reference = (build_from_folder(tmp_path / str(seed), "short") for seed in (0, 1))
    tokenizer = ChatTokenizer(tmp_path / "0")

    def logprobs(model):
        totals = []
        for problem, chosen, rejected in PAIRS:
            row = {
                "prompt": [{"role": "user", "content": problem}],
                "chosen": chosen,
                "rejected": rejected,
                "rejected_finished": True,
            }
            documents = encode_pair(row, tokenizer)
            batch = collate(
                [
                    {
                        "input_ids": [t for ids, _ in documents for t in ids],
                        "labels": [x for _, labels in documents for x in labels],
                        "lengths": [len(ids) for ids, _ in documents],
                    }
                ]
            )
            out = model(
                batch.tokens,
                mask=batch.documents,
                input_pos=batch.positions,
                targets=batch.targets,
                scored=batch.scored,
            )[0]
            totals.append(torch.stack([x.sum() for x in out.split(batch.documents.lengths)]))
        return torch.stack(totals).unbind(1)

    with torch.no_grad():
        frozen = logprobs(reference)
    loss = dpo_loss(*logprobs(policy), *frozen, beta=0.3)[0].mean()
    loss.backward()

    def turns(i):
        return [[{"role": "assistant", "content": pair[i]}] for pair in PAIRS]

    data = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": p}] for p, _, _ in PAIRS],
            "chosen": turns(1),
            "rejected": turns(2),
        }
    )
    theirs, ref = (Phi3ForCausalLM.from_pretrained(tmp_path / s, dtype=torch.float32) for s in "01")
    trainer = DPOTrainer(
        theirs,
        ref_model=ref,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "0"),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            beta=0.3,
            per_device_train_batch_size=3,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        ),
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = trainer.compute_loss(trainer.model, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert abs(loss.item() - 0.6931) > 0.005  # Not the trivial case.
    checkpointer = HFCheckpointer(tmp_path / "0")
    ours = checkpointer.to_hf({n: p.grad for n, p in policy.named_parameters()})
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-6), name
