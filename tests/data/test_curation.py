from custom_components.data.curation import (
    Record,
    as_they_come,
    is_repetitive,
    length_statistics,
    pass_rate,
    select_midtrain,
    select_pairs,
    select_sft,
)

_next = iter(range(10_000))


def by_problem(records):
    groups = {}
    for r in records:
        groups.setdefault(r.problem, []).append(r)
    return groups


def record(problem, verdict="correct", length=10, difficulty="easy", finished=True, key=None):
    row = next(_next)
    return Record(
        row,
        problem,
        "s",
        difficulty,
        "d",
        length,
        verdict,
        finished,
        False,
        row if key is None else key,
    )


def test_pass_rate_keeps_undecided_in_the_denominator():
    group = [record("p"), record("p", "incorrect"), record("p", "undecided"), record("p")]
    assert pass_rate(group) == 0.5


def test_midtrain_takes_distinct_correct_finished_rollouts_up_to_the_cap():
    rows = [
        record("p", key=1),
        record("p", key=1),
        record("p", key=2),
        record("p", key=3),
        record("p", "incorrect"),
        record("p", finished=False),
        record("q"),
    ]
    chosen = select_midtrain(by_problem(rows), cap_per_problem=2, without={"q"})
    assert [r.row for r in chosen] == [rows[0].row, rows[2].row]


def test_sft_is_balanced_hard_first_and_short():
    rows = [record(f"easy{i}", difficulty="easy") for i in range(10)]
    rows += [
        record("hard", length=30, difficulty="hard"),
        record("hard", length=20, difficulty="hard"),
        record("hard", "incorrect", difficulty="hard"),
        record("sure", difficulty="hard"),
    ]
    chosen = select_sft(by_problem(rows), max_problems=4, per_problem=1, seed=0)
    assert len(chosen) == 4
    assert "hard" in chosen and "sure" in chosen  # drawn in turn from both difficulties
    assert chosen["hard"][0].length == 20
    assert list(chosen).index("hard") < list(chosen).index("sure")  # the lower pass rate first


def test_pairs_are_of_one_problem_and_of_like_length():
    rows = [
        record("p", length=10),
        record("p", "incorrect", length=12),
        record("p", "incorrect", length=100),
        record("p", "undecided"),
        record("q"),
        record("r", "incorrect"),
    ]
    pairs = select_pairs(by_problem(rows), per_problem=4, max_length_ratio=2.0, seed=0)
    assert [(c.row, r.row) for c, r in pairs] == [(rows[0].row, rows[1].row)]


def test_length_statistics():
    assert length_statistics([8, 12]) == {
        "mean_length": 10.0,
        "length_cv": 0.2,
        "length_range": 0.4,
    }
    assert length_statistics([0, 0]) == {"mean_length": 0, "length_cv": 0.0, "length_range": 0.0}


def test_repetition():
    assert is_repetitive("so the answer is wait let me think again about it now " * 20)
    assert not is_repetitive(" ".join(str(i) for i in range(500)))
    assert not is_repetitive("short " * 10)


def test_a_set_as_it_comes_keeps_wrong_answers_but_not_cut_ones():
    wrong, cut, right = (
        record("p", "incorrect"),
        record("p", "correct", finished=False),
        record("q"),
    )
    groups = by_problem([wrong, cut, right])
    assert select_sft(groups, None, 2, 0, as_they_come) == {"p": [wrong], "q": [right]}
    assert select_sft(groups, None, 2, 0) == {"q": [right]}
