import random

from custom_components.data.deduplication import near_duplicates, shingles

TEXT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def jaccard(a, b):
    a, b = set(shingles(a)), set(shingles(b))
    return len(a & b) / len(a | b)


def test_spacing_case_and_a_word_make_no_other_problem_but_a_number_does():
    problems = [
        (0, TEXT),
        (1, "What is 2+2?"),
        (2, TEXT.upper()),
        (3, TEXT.replace("altogether ", "")),
        (4, TEXT.replace("48", "50")),
        (5, "What is  2 + 2 ?"),
        (6, "What is 2*2?"),
    ]
    assert dict(near_duplicates(problems, 0.7)) == {2: 0, 3: 0, 5: 1}


def test_found_pairs_are_alike_by_the_exact_index_and_across_batches():
    rng = random.Random(0)
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(600)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(300)]
    altered = []
    for i in range(0, 300, 3):
        parts = texts[i].split()
        parts[rng.randrange(40)] = "other"
        altered.append(" ".join(parts))
    problems = list(enumerate(texts + altered))
    found = dict(near_duplicates(problems, 0.7, batch_size=64))
    # One changed word of 40 leaves 35 of 41 shingles.
    expected = {300 + n: 3 * n for n in range(100)}
    assert sum(found.get(k) == v for k, v in expected.items()) >= 95
    assert all(jaccard(problems[a][1], problems[b][1]) > 0.5 for a, b in found.items())
