"""Questions to a model, through the real `tune run`."""

from conftest import recipe


def test_it_answers_and_says_what_the_verifier_makes_of_it(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "question=3+1=?", "answer=4", "temperature=0").stdout
    answer = said[said.index("\\boxed{") + 7]
    assert answer in "34"
    verdict = "correct: read 4" if answer == "4" else "incorrect: read 3"
    assert f"[{verdict}" in said


def test_it_reads_questions_until_the_input_ends(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "seed=3", input="1+1=?\n\n2+1=?\n").stdout
    assert said.count("\\boxed{") == 2


def test_a_response_that_is_cut_off_is_said_to_be(coin):
    model = coin[0].partition("=")[2]
    said = recipe("ask", f"model={model}", "question=3+1=?", "answer=4", "max_new_tokens=2").stdout
    assert "[cut off after 2 tokens; raise max_new_tokens]" in said and "[incorrect" in said


def test_a_mistake_is_one_line(coin):
    done = recipe("ask", "model=runs/nowhere", "question=x", check=False)
    assert done.returncode == 2 and "runs/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
