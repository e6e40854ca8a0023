"""Check VerifierPool: order, limits, lost workers, threads, forks, shutdown."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from custom_components.verifier import Item, VerifierPool, verify
from custom_components.verifier.pool import process as process_module

from .corpus import CORPUS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.4


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=1, time_limit=5.0) as pool:
        yield pool


@pytest.fixture
def faulty(monkeypatch):
    """Yield a maker of pools whose workers fail on command."""
    path = str(Path(__file__).with_name("faulty_worker.py"))
    monkeypatch.setattr(process_module, "WORKER", (path,))
    pools = []

    def make(**options):
        pools.append(VerifierPool(**{"workers": 1, "time_limit": LIMIT, **options}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def right(value: object) -> dict[str, str]:
    return {"gold": str(value), "response": rf"\boxed{{{value}}}"}


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def worker_pids(pool: VerifierPool) -> list[int]:
    return [process.pid for process in pool._engine.processes if process is not None]


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# --- verdicts ----------------------------------------------------------------------------------


def test_same_verdicts_as_in_process(pool):
    cases = [(gold, rf"\boxed{{{answer}}}") for form in CORPUS.values() for gold, answer, _ in form]
    cases = cases[::4]
    pooled = pool.verify_all({"gold": gold, "response": response} for gold, response in cases)
    assert pooled == [verify(gold, response) for gold, response in cases]


def test_order_is_kept():
    with VerifierPool(workers=2) as pool:
        slow = {"gold": r"\sqrt{2}x", "response": r"\boxed{\sqrt{3}x}"}
        items = [slow if i % 7 == 0 else right(i) for i in range(300)]
        predictions = [verdict.prediction for verdict in pool.imap(items)]
    assert predictions == [r"\sqrt{3}x" if i % 7 == 0 else str(i) for i in range(300)]


def test_items_may_be_mappings_or_items(pool):
    item = Item("C", r"\boxed{c}", choices="ABCD")
    assert pool.verify_all([item, item.as_dict(), right(1)]) == [
        pool.verify("C", r"\boxed{c}", choices="ABCD"),
        pool.verify("C", r"\boxed{c}", choices="ABCD"),
        pool.verify("1", r"\boxed{1}"),
    ]


@pytest.mark.parametrize("item", [{"gold": "1"}, {"golden": "1", "response": "1"}, "1", 3])
def test_a_bad_item_raises_at_the_caller(pool, item):
    with pytest.raises(TypeError):
        pool.verify_all([item])
    assert pool.verify("1", r"\boxed{1}")


def test_any_text_travels(pool):
    for text in ("\0", "\udcff\ud800", "\u2028\n\r\x85", "🙂" * 1000, '"}]\n{"', "x" * 3_000_000):
        assert pool.verify("1", text).reason == "no_answer"
        assert pool.verify("1", text + r"\boxed{1}").verdict == "correct"
    assert pool.verify("1", "x" * 50_000_000).reason == "response_too_long"


def test_imap_streams_and_reads_ahead_only_so_far(pool):
    taken = []

    def endless():
        i = 0
        while True:
            taken.append(i)
            yield right(i)
            i += 1

    verdicts = pool.imap(endless(), look_ahead=10)
    for i in range(25):
        assert next(verdicts).prediction == str(i)
        assert len(taken) <= i + 11
    verdicts.close()
    assert pool.verify("1", r"\boxed{1}")


def test_an_error_in_the_items_reaches_the_caller(pool):
    def broken():
        yield right(1)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        pool.verify_all(broken())
    assert pool.verify("1", r"\boxed{1}")


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["HANG", "SPIN", "IN C"])
def test_a_response_that_hangs_is_incorrect(faulty, what):
    pool = faulty()
    pool.verify("1", r"\boxed{1}")
    (first,) = worker_pids(pool)
    start = time.monotonic()
    verdict = pool.verify("1", what)
    assert (verdict.verdict, verdict.reason) == ("incorrect", "timeout")
    assert time.monotonic() - start < 6 * LIMIT + 5
    assert not running(first)
    assert pool.verify("1", r"\boxed{1}")


def test_a_gold_that_hangs_is_undecided(faulty):
    verdict = faulty().verify("HANG", r"\boxed{1}")
    assert (verdict.verdict, verdict.reason) == ("undecided", "gold_timeout")


def test_hanging_items_do_not_disturb_the_others(faulty):
    items = [right(i) for i in range(60)]
    items[3]["response"] = items[31]["response"] = items[32]["response"] = "SPIN"
    verdicts = faulty(workers=2).verify_all(items)
    wrong = {i: verdict.reason for i, verdict in enumerate(verdicts) if not verdict}
    assert wrong == {3: "timeout", 31: "timeout", 32: "timeout"}


def test_memory_is_capped(faulty):
    pool = faulty(memory_limit=600 << 20, time_limit=20.0)
    assert pool.verify("1", r"\boxed{1}")
    verdict = pool.verify("1", "EAT")
    assert (verdict.verdict, verdict.reason) == ("incorrect", "memory")
    verdict = pool.verify("EAT", r"\boxed{1}")
    assert (verdict.verdict, verdict.reason) == ("undecided", "gold_memory")
    assert pool.verify("1", r"\boxed{1}")


def test_a_real_hang_is_bounded():
    nasty = r"\int \frac{\sin(x^{3}) e^{x^{2}}}{\log(x)+x^{x}} dx"
    with VerifierPool(workers=1, time_limit=3.0) as pool:
        verdict = pool.verify(r"\int_0^{1} x dx", rf"\boxed{{{nasty}}}")
        assert (verdict.verdict, verdict.reason) == ("incorrect", "timeout")
        verdict = pool.verify(nasty, r"\boxed{\int x dx}")
        assert (verdict.verdict, verdict.reason) == ("undecided", "gold_timeout")
        assert pool.verify("1", r"\boxed{1}")


def test_a_pause_of_everything_is_no_timeout():
    """Check a stopped job or a closed laptop, which do not make the answer slow."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from custom_components.verifier import VerifierPool
from custom_components.verifier.pool import process
process.WORKER = ({str(Path(__file__).with_name("faulty_worker.py"))!r},)
pool = VerifierPool(workers=1, time_limit=2.0)
pool.verify("1", "x")
print(pool._engine.processes[0].pid, flush=True)
print(pool.verify("1", r"SLEEP \\boxed{{1}}").reason, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        for pid in (parent.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3.0)
        for pid in (worker, parent.pid):
            os.kill(pid, signal.SIGCONT)
        assert parent.stdout.readline() == b"same_text\n"


# --- lost workers ------------------------------------------------------------------------------


def test_an_item_that_kills_two_workers_is_undecided(faulty):
    verdict = faulty().verify("1", "DIE")
    assert (verdict.verdict, verdict.reason) == ("undecided", "worker_lost")


def test_a_lost_worker_is_replaced_and_the_item_retried(faulty, tmp_path):
    pool = faulty()
    verdict = pool.verify("1", rf"ONCE {tmp_path / 'mark'} \boxed{{1}}")
    assert verdict.verdict == "correct"


def test_workers_killed_from_outside(faulty):
    pool = faulty(workers=2)
    verdicts = pool.imap((right(i) for i in range(400)), look_ahead=100)
    got = [next(verdicts) for _ in range(20)]
    for pid in worker_pids(pool):
        os.kill(pid, signal.SIGKILL)
    got += list(verdicts)
    assert len(got) == 400
    assert all(got)


def test_a_bug_in_the_verifier_is_undecided(faulty):
    verdict = faulty().verify("1", "RAISE")
    assert (verdict.verdict, verdict.reason) == ("undecided", "internal_error")


def test_prints_do_not_break_the_protocol(faulty):
    assert faulty().verify("1", r"PRINT \boxed{1}").verdict == "correct"


def test_a_worker_that_cannot_start_raises_with_its_error(monkeypatch):
    monkeypatch.setattr(process_module, "WORKER", ("-c", "raise SystemExit('no such thing')"))
    with VerifierPool(workers=1) as pool, pytest.raises(RuntimeError, match="no such thing"):
        pool.verify("1", r"\boxed{1}")


# --- life cycle --------------------------------------------------------------------------------


def test_close_ends_the_workers():
    pool = VerifierPool(workers=2)
    pool.verify_all(right(i) for i in range(50))
    pids = worker_pids(pool)
    pool.close()
    pool.close()
    assert pids and not any(map(running, pids))
    with pytest.raises(RuntimeError, match="closed"):
        pool.verify("1", r"\boxed{1}")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not set(map(int, children)) & set(pids)  # they are reaped, not zombies


def test_close_while_an_item_hangs(faulty):
    pool = faulty(time_limit=60.0)
    pool.verify("1", r"\boxed{1}")
    futures = [pool.submit({"gold": "1", "response": "HANG"}) for _ in range(3)]
    time.sleep(0.2)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 5
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=1)


def test_a_forgotten_pool_ends_its_workers():
    pool = VerifierPool(workers=1)
    pool.verify("1", r"\boxed{1}")
    (pid,) = worker_pids(pool)
    del pool
    wait_until(lambda: not running(pid))


@pytest.mark.parametrize("busy", [False, True])
def test_workers_die_with_their_parent(busy):
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from custom_components.verifier import VerifierPool
from custom_components.verifier.pool import process
process.WORKER = ({str(Path(__file__).with_name("faulty_worker.py"))!r},)
pool = VerifierPool(workers=1, time_limit=60)
pool.verify("1", "x")
if {busy}:
    pool.submit({{"gold": "1", "response": "SPIN"}})
    time.sleep(0.3)
print(pool._engine.processes[0].pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert running(pid)
        parent.kill()
    wait_until(lambda: not running(pid))


def test_workers_import_neither_torch_nor_main():
    with VerifierPool(workers=1) as pool:
        pool.verify(r"\sqrt{2}", r"\boxed{\sqrt{3}}")
        (pid,) = worker_pids(pool)
        maps = Path(f"/proc/{pid}/maps").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert "torch" not in maps
    assert b"custom_components.verifier.pool.worker" in command


def test_a_killed_starter_is_replaced(faulty):
    pool = faulty(workers=2)
    assert pool.verify("1", r"\boxed{1}")
    before = worker_pids(pool)
    os.kill(pool._engine.starter._process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(running, before)))
    assert all(pool.verify_all(right(i) for i in range(20)))


def test_from_many_threads(pool):
    results = {}

    def work(name):
        results[name] = [v.prediction for v in pool.imap(right(name + i) for i in range(40))]

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {1000 * k: [str(1000 * k + i) for i in range(40)] for k in range(6)}


def test_a_pool_outlives_the_thread_that_started_it():
    with VerifierPool(workers=1) as pool:
        thread = threading.Thread(target=lambda: pool.verify("1", r"\boxed{1}"))
        thread.start()
        thread.join()
        (pid,) = worker_pids(pool)
        time.sleep(0.7)
        assert pool.verify("2", r"\boxed{2}")
        assert worker_pids(pool) == [pid]


def test_after_fork_the_child_has_its_own_workers(pool):
    pool.verify("1", r"\boxed{1}")
    before = worker_pids(pool)
    child = os.fork()
    if child == 0:  # pytest must not run in the child
        status = 1
        try:
            good = bool(pool.verify("2", r"\boxed{2}")) and worker_pids(pool) != before
            pool.close()
            status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.verify("3", r"\boxed{3}")
    assert worker_pids(pool) == before


def test_inside_datasets_map(faulty):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([*map(right, range(6)), {"gold": "1", "response": ""}])
    pool = faulty()
    pool.verify("1", "x")

    def judge(row):
        return {"verdict": pool.verify(row["gold"], row["response"]).verdict}

    judged = rows.map(
        judge, num_proc=2, load_from_cache_file=False
    )  # it forks, and pickles the pool
    assert judged["verdict"][:] == ["correct"] * 6 + ["incorrect"]


def test_a_pickled_pool_is_a_new_pool():
    pool = VerifierPool(workers=1, time_limit=3.0)
    with pickle.loads(pickle.dumps(pool)) as copy:
        assert (copy.workers, copy.time_limit) == (1, 3.0)
        assert copy.verify("1", r"\boxed{1}")
    assert pool._engine is None


@pytest.mark.parametrize("options", [{"workers": 0}, {"time_limit": 0}, {"memory_limit": -1}])
def test_bad_options(options):
    with pytest.raises(ValueError):
        VerifierPool(**options)
