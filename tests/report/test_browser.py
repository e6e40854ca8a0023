"""Test the report in a browser: filters by the address, hostile texts, a phone's width."""

import re
import shutil
import subprocess
from html import unescape

import pytest
from chain_folder import STAGES, TASK, small_chain

from custom_components.io import write_jsonl
from custom_components.report.chain_report import make_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return make_report(small_chain(tmp_path_factory.mktemp("run")), TASK, STAGES, [])[1]


def dump(page, fragment=""):
    """Return the page's HTML after its script has run."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--virtual-time-budget=2000",
            f"--user-data-dir={page.parent / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            f"file://{page}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def listed(html):
    [items] = re.findall(r'<ul id="list">(.*?)</ul>', html, re.S)
    return re.findall(r"<button[^>]*><span>(.*?)</span>", items)


def detail(html):
    return re.findall(r'<article id="detail".*?</article>', html, re.S)[0]


def test_filters_and_a_problem_come_from_the_address(page):
    html = dump(page, "#stage=sft&verdict=wrong&difficulty=hard&problem=p5")
    assert sorted(listed(html)) == sorted(f"{i}+1=?" for i in (1, 3, 5, 7, 9, 11))
    shown = detail(html)
    assert shown.count("<section>") == 3 and shown.index("start says 5") < shown.index(
        "grpo says 5"
    )
    assert 'class="badge right"' in shown and 'class="badge wrong"' in shown


def test_search_changes_and_training(page):
    assert listed(dump(page, "#stage=grpo&verdict=gained&q=SAYS%207")) == ["7+1=?"]
    assert listed(dump(page, "#stage=grpo&verdict=lost")) == ["0+1=?"]
    html = dump(page, "#source=grpo&problem=grpo-2")
    assert len(listed(html)) == 3 and "training 2" in detail(html)


def test_a_value_that_is_missing_stops_nothing(tmp_path):
    run = small_chain(tmp_path)
    row = {"step": 1, "problem": "1+1=?", "answer": None, "response": "empty", "verdict": "correct"}
    write_jsonl(
        run / "grpo" / "samples.jsonl",
        [{**row, "advantage": None}, {**row, "step": 2, "problem": None, "length": None}],
    )
    html = dump(make_report(run, TASK, STAGES, [])[1], "#source=grpo&problem=grpo-1&q=EMPTY")
    assert listed(html) == ["1: 1+1=?", "2: (no text)"]
    shown = detail(html)
    assert "advantage not finite" in shown and "Gold answer: <strong>none" in shown
    html = dump(run / "report.html", "#source=grpo&problem=grpo-2")
    assert "characters" not in detail(html) and "advantage" not in detail(html)


def test_a_hostile_response_stays_text(page):
    html = dump(page, "#problem=p3")
    assert "<title>owned" not in html and "<img" not in html
    assert "<img src=x onerror=alert(1)>" in unescape(detail(html))


def test_a_phone_has_no_sideways_scrolling(page):
    """The frame is as wide as a phone; the copy of the page allows the measuring script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    ask = "<script>parent.postMessage(document.documentElement.scrollWidth - document.documentElement.clientWidth, '*')</script></body>"
    (page.parent / "copy.html").write_text(text.replace("</body>", ask))
    frame = page.parent / "frame.html"
    frame.write_text(
        "<script>addEventListener('message', (e) => { document.title = `over by ${e.data}`; })</script>"
        '<iframe src="copy.html#problem=p3" style="width: 390px; height: 800px; border: 0"></iframe>'
    )
    assert "<title>over by 0</title>" in dump(frame)
