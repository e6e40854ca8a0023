import random

import pytest
import torch

from custom_components.config import UserError
from custom_components.data.batching import batch_order, collate, split_batch
from custom_components.data.curation import MESSAGES_SCHEMA
from custom_components.data.packing import best_fit, open_table, prepare_packs, validation_tables
from custom_components.data.rows import write_rows
from custom_components.models.phi4_mini import phi4_mini_3_8b, phi4_mini_tiny
from custom_components.training.flops import document_costs


def test_best_fit_worked_example():
    # 7 opens a bin (3 left), 6 another one (4 left); 4 goes to the second, where it fits.
    assert best_fit([4, 7, 6, 3], 10) == [[1, 3], [2, 0]]
    assert best_fit([5, 5, 5], 10) == [[0, 1], [2]]
    assert best_fit([], 10) == []


def test_best_fit_holds_everything_once_within_capacity():
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(500)]
    bins = best_fit(lengths, 100)
    assert sorted(i for b in bins for i in b) == list(range(500))
    assert all(sum(lengths[i] for i in b) <= 100 for b in bins)
    assert sum(lengths) / (100 * len(bins)) > 0.98


def split_of(path, rows):
    """Write a split with rows (source, domain, problem, number of tokens)."""
    write_rows(
        path,
        [
            {
                "id": str(i),
                "source": source,
                "domain": domain,
                "answer": "1",
                "messages": [
                    {"role": "user", "content": problem},
                    {"role": "assistant", "content": "x" * n},
                ],
            }
            for i, (source, domain, problem, n) in enumerate(rows)
        ],
        MESSAGES_SCHEMA,
    )


def encode(row):
    """Encode a row as its number, once for each character of the response."""
    n = len(row["messages"][1]["content"])
    return [([int(row["id"])] * n, [-100] + [int(row["id"])] * (n - 1))]


def tokens_of(table):
    return [token for row in table for token in row["input_ids"]]


def test_packs_hold_the_mixture_and_keep_validation_problems_apart(tmp_path):
    rng = random.Random(0)
    rows = [
        (s, d, f"{s} {d} {i // 4}", rng.randint(5, 60))
        for s in ("a", "b")
        for d in ("algebra", "number theory")
        for i in range(200)
    ]
    split_of(tmp_path / "split.parquet", rows)
    counts = prepare_packs(
        tmp_path / "split.parquet",
        encode,
        128,
        tmp_path / "packs",
        mixture={"b": 2.5},
        held_out=0.2,
    )
    assert counts["rows"] == 800 and counts["density"] > 0.97
    train = tokens_of(open_table(tmp_path / "packs"))
    tables = validation_tables(tmp_path / "packs")
    assert set(tables) == {"algebra", "number_theory"}
    held = {d: {rows[i][2] for i in tokens_of(t)} for d, t in tables.items()}
    assert all(rows[i][1] == d.replace("_", " ") for d, t in tables.items() for i in tokens_of(t))
    problems = {rows[i][2] for i in train}
    assert not problems & (
        held["algebra"] | held["number_theory"]
    )  # problems are held out as a whole
    assert len(problems) + sum(map(len, held.values())) == 200
    copies = {i: train.count(i) / rows[i][3] for i in set(train)}
    assert {c for i, c in copies.items() if rows[i][0] == "a"} == {1}
    of_b = [c for i, c in copies.items() if rows[i][0] == "b"]
    assert set(of_b) == {2, 3} and 2.35 < sum(of_b) / len(of_b) < 2.65
    with pytest.raises(UserError, match="mixture: no rows of source \\['c'\\]"):
        prepare_packs(tmp_path / "split.parquet", encode, 128, tmp_path / "x", mixture={"c": 2.0})
    assert not (tmp_path / "x").exists()


def small_model():
    torch.manual_seed(0)
    model = phi4_mini_tiny()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def rows(*lengths, seed=0):
    """Return a row per tuple of lengths: a pack of documents whose first token is not scored."""
    g = torch.Generator().manual_seed(seed)
    result = []
    for row in lengths:
        ids = torch.randint(0, 80, (sum(row),), generator=g).tolist()
        labels, start = list(ids), 0
        for n in row:
            labels[start] = -100
            start += n
        result.append({"input_ids": ids, "labels": labels, "lengths": list(row)})
    return result


def test_no_label_crosses_a_document():
    pack = {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "lengths": [2, 3]}
    batch = collate([pack])
    # Position 1 ends the first document and must not learn token 3.
    assert batch.targets.tolist() == [[2, -100, 4, 5, -100]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2]]
    assert collate([pack], document_mask=False).positions.tolist() == [[0, 1, 2, 3, 4]]


def loss_and_gradients(model, batches):
    model.zero_grad()
    scored = sum(int((b.targets != -100).sum()) for b in batches)
    total = 0.0
    for b in batches:
        logprobs = model(b.tokens, mask=b.documents, input_pos=b.positions, targets=b.targets)
        loss = -logprobs.sum() / scored
        loss.backward()
        total += loss.item()
    return total, [p.grad.clone() for p in model.parameters()]


def test_packed_equals_separate():
    model = small_model()
    [pack] = rows((7, 20, 3, 30))
    separate, start = [], 0
    for n in pack["lengths"]:
        part = slice(start, start + n)
        separate.append(
            {"input_ids": pack["input_ids"][part], "labels": pack["labels"][part], "lengths": [n]}
        )
        start += n
    packed_loss, packed = loss_and_gradients(model, [collate([pack])])
    apart_loss, apart = loss_and_gradients(model, [collate([r]) for r in separate])
    assert packed_loss == pytest.approx(apart_loss, abs=1e-5)
    for a, b in zip(packed, apart, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    crossing_loss, _ = loss_and_gradients(model, [collate([pack], document_mask=False)])
    assert abs(crossing_loss - packed_loss) > 1e-4  # without the mask the loss is another


def test_any_split_into_micro_batches_gives_the_same_gradient():
    model = small_model()
    batch = rows(*[(n,) for n in (5, 31, 12, 40, 8, 22, 17, 9)])
    _, whole = loss_and_gradients(model, [collate(batch)])
    lengths = [len(r["input_ids"]) for r in batch]
    for limit in (1, 50, 80):
        [parts] = split_batch(lengths, limit, 1)
        assert len(parts) > 1
        _, cut = loss_and_gradients(model, [collate([batch[i] for i in p]) for p in parts])
        for a, b in zip(cut, whole, strict=True):
            assert (a - b).norm() <= 1e-6 * b.norm() + 1e-12


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("limit", [40, 100, 10_000])
def test_split_batch_is_complete_and_even(ranks, limit):
    rng = random.Random(1)
    lengths = [rng.randint(1, 60) for _ in range(50)]
    parts = split_batch(lengths, limit, ranks)
    assert len({len(p) for p in parts}) == 1  # the same number of forwards on every rank
    assert sorted(i for p in parts for micro in p for i in micro) == list(range(50))
    assert all(micro for p in parts for micro in p)
    assert all(sum(lengths[i] for i in m) <= max(limit, 60) for p in parts for m in p)


def test_ranks_get_equal_work_not_equal_tokens():
    """A document of 24K tokens of Phi-4-mini costs as much as 1.6 times its tokens in short ones."""
    with torch.device("meta"):
        model = phi4_mini_3_8b()
    lengths = [24_000] + [1000] * 60
    costs = document_costs(model, ([n] for n in lengths))
    assert 1.5 < costs[0] / 24_000 < 1.75
    assert costs[1] == pytest.approx(1000, rel=0.05)
    parts = split_batch(lengths, 60_000, 2, costs)
    work = [sum(costs[i] for micro in rank for i in micro) for rank in parts]
    assert max(work) < 1.1 * min(work)
    by_tokens = split_batch(lengths, 60_000, 2)
    work = [sum(costs[i] for micro in rank for i in micro) for rank in by_tokens]
    assert max(work) > 1.25 * min(work)


def test_fewer_rows_than_ranks_is_refused():
    with pytest.raises(UserError, match="cannot be divided over 2 ranks"):
        split_batch([5], 100, 2)


def test_batch_order_visits_every_row_once_an_epoch():
    order = batch_order(10, 4, seed=3)
    drawn = [next(order) for _ in range(5)]
    seen = [i for _, batch in drawn for i in batch]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]  # each epoch has its own order
    assert [epoch for epoch, _ in drawn] == [0, 0, 0, 1, 1]
    again = batch_order(10, 4, seed=3)
    assert [next(again) for _ in range(5)] == drawn


def test_several_processes_tokenise_as_one_does(tmp_path):
    rows = [("a", "algebra", str(i), 5 + i % 50) for i in range(700)]
    split_of(tmp_path / "split.parquet", rows)
    tables = {}
    for workers in (1, 2):
        counts = prepare_packs(
            tmp_path / "split.parquet", encode, 52, tmp_path / str(workers), workers=workers
        )
        tables[workers] = list(open_table(tmp_path / str(workers)))
    assert counts["rows"] == 700 and counts["too_long"] == 28
    assert tables[1] == tables[2]
