"""The page: what it says of a run and of what is missing, that nothing escapes, how it looks."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import pytest

from repotune import verdict_text
from repotune.corpus.manifest import Reason
from repotune.evaluation.verdict import judge
from repotune.records import Interval, Ruling
from repotune.report import curves, parse_metrics, texts, to_html

from .runs import BARE, EVALUATION, HOSTILE, LINES, RUN, compared

FORGETTING = EVALUATION.forgetting
LIBRARY = FORGETTING.library
VOID = {"meta", "br", "hr", "img", "path", "use", "rect"}


class Reader(HTMLParser):
    """Tags that are closed by another's end, attributes that load or run, ids, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.ids, self.tags, self.words = [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name.startswith("on") or name in ("src", "srcset", "action"):
                self.wrong.append((tag, name))
            if name.endswith("href") and not value.startswith("#"):
                self.wrong.append((tag, value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data):
        self.words.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.wrong == []
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    return reader, " ".join("".join(reader.words).split())


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("run", [RUN, BARE], ids=["whole", "bare"])
def test_the_page_is_whole_and_loads_and_runs_nothing(lang, run):
    html = to_html(run, lang)
    reader, _ = read(html)
    assert "script" not in reader.tags
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert html.startswith("<!doctype html>")
    assert f'<html lang="{lang}">' in html


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_what_comes_from_outside_is_text(lang):
    html = to_html(RUN, lang)
    assert "<script" not in html
    assert "\u202e" not in html
    assert "\x07" not in html
    _, words = read(html)
    assert words.count(HOSTILE[:-2]) == html.count("&lt;script&gt;") >= 5


def test_the_verdict_comes_first_and_every_figure_is_there():
    html = to_html(RUN, "en")
    _, words = read(html)
    assert html.index('id="verdict"') < html.index('id="figures"') < html.index('id="curves"')
    for said in (
        "Better: ship it", "-0.2500 (-0.3000 – -0.2000)", "+25.0 pp (+10.0 – +40.0)",
        "What was forgotten", "+1.0%; +0.0100 (+0.0050 – +0.0150)", "40 / 164", "38 / 164",
        "5 lost, 3 won, p = 0.727",
        "Not everything was measured:HumanEval's infilling was left out.",
        "10.0% → 30.0%", "14 of 20 files kept", "Secrets replaced by placeholders: 3",
        "2.00 (1.00 – 3.00)", "resumed from the checkpoint of step 9", "Step 7, memory ran out",
        "In the rehearsal, memory ran out",
        "The weights of step 20 were exported", "cd" * 32, "ab" * 32, "--config config.toml",
    ):  # fmt: skip
        assert said in words, said
    assert re.search(r"Peak memory, GiB.*2\.50.*yes.*Tokens per second, warm.*100.*no", html, re.S)


def with_facts(**changes):
    return replace(RUN, state=replace(RUN.state, facts={**RUN.state.facts, **changes}))


def test_the_plan_is_compared_with_the_same_things():
    """90 s of start, 40 steps of 1.5 s, 120 s of evaluation."""
    _, words = read(to_html(with_facts(resumed=[]), "en"))
    for said in (
        "Minutes of the start1.2 (0.6 – 1.8)1.5yes",
        "Minutes of the training1.2 (0.6 – 1.8)1.0yes",
        "Minutes of the evaluation1.2 (0.6 – 1.8)2.0no",
        "Minutes in all3.6 (1.8 – 5.4)4.5yes",
        "The plan counts neither a rehearsal nor downloads",
    ):
        assert said in words, said
    assert "Minutes of the rehearsal" not in words
    _, words = read(to_html(with_facts(resumed=[], took={"start": 90.0}), "en"))
    assert "Minutes of the evaluation1.2 (0.6 – 1.8)not measured" in words
    assert "Minutes in all3.6 (1.8 – 5.4)not measured" in words  # a part of it is no sum


@pytest.mark.parametrize("facts", [{}, {"resumed": [], "starts": 2}])
def test_the_starts_of_a_resumed_run_and_a_rehearsal_are_not_held_against_the_plan(facts):
    took = {"start": 120.0, "rehearsal": 600.0, "evaluation": 90.0}
    html = to_html(with_facts(took=took, **facts), "en")
    _, words = read(html)
    assert "Minutes of the start1.2 (0.6 – 1.8)2.0Minutes of the rehearsal10.0Minutes" in words
    assert "Minutes of the evaluation1.2 (0.6 – 1.8)1.5yes" in words
    assert "Minutes in all3.6 (1.8 – 5.4)4.5" in words
    assert "Minutes in all3.6 (1.8 – 5.4)4.5yes" not in words


def test_memory_is_a_curve_over_the_plan_with_the_context_that_the_plan_has():
    """At most 40 times 64 MiB, and 256 MiB of context: 2.75 GiB."""
    _, words = read(to_html(RUN, "en"))
    assert "Taken at each step, GiB at most 2.75planned, with its range" in words
    html = to_html(RUN, "en")
    assert html.count("var(--band)") - html.count("--band:") >= 2  # speed and memory
    _, words = read(to_html(with_facts(plan=None), "en"))
    assert "Taken at each step, GiB at most 2.5 " in words


def test_a_run_of_an_older_version_has_its_report():
    """No seconds and no memory in its steps, a plan of all hours in one, nothing timed."""
    old = [
        re.sub(r'"(seconds|memory_bytes)": [\d.]+,? ?', "", line).replace(", }", "}")
        for line in LINES
    ]
    plan = {
        name: one
        for name, one in RUN.state.facts["plan"].items()
        if name not in ("hours_by_stage", "context_bytes")
    }
    facts = {name: one for name, one in RUN.state.facts.items() if name != "took"}
    state = replace(RUN.state, facts={**facts, "plan": plan})
    run = replace(RUN, state=state, metrics=parse_metrics(old))
    _, words = read(to_html(run, "en"))
    assert "The memory of each step was not recorded." in words
    assert "Taken at each step" not in words
    assert "Minutes in all3.6 (1.8 – 5.4)not measured" in words
    assert "Minutes of the" not in words
    assert "2.00 (1.00 – 3.00)" in words


def test_korean_says_the_same_in_korean():
    _, words = read(to_html(RUN, "ko"))
    for said in (
        "좋아졌습니다. 쓰세요",
        "생성된 코드",
        "평가용 코드",
        "잊은 것",
        "잃음 5, 얻음 3",
        "자리표시자로 바꾼 비밀값: 3개",
        "9스텝 체크포인트에서 이어서",
    ):
        assert said in words


def judged(**changes):
    found = replace(EVALUATION, **changes)
    return replace(found, judgement=judge(found))


def test_figures_of_gaps_and_groups_and_what_got_worse_are_shown():
    _, words = read(to_html(RUN, "en"))
    for said in (
        "Gap filled exactly25.0%50.0%+25.0 pp (+12.5",
        "Gap, edit similarity62.5%75.0%too few files for an interval",
        "Gap, stopped by itself50.0%100.0%",
        "core12.5% → 37.5% (18)+25.0 pp (+12.5 – +50.0)25.0% → 50.0% (18)",
        "left out for that: 3",
    ):
        assert said in words
    assert "stops by itself less often" not in words

    less = Interval(value=-0.5, low=-0.6, high=-0.4)
    stops = judged(infill={"stop_rate": compared(1.0, 0.5, less)})
    _, words = read(to_html(replace(RUN, evaluation=stops), "en"))
    assert "stops by itself less often (100.0% before, 50.0% now)" in words
    worse = judged(infill={"exact_match": compared(0.5, 0.0, less)})
    _, words = read(to_html(replace(RUN, evaluation=worse), "ko"))
    assert "써내는 코드는 확실히 나빠졌습니다: 빈칸 정확도 -50.0%p" in words


def test_what_was_memorised_is_said_in_the_verdict_and_shown():
    _, page = read(to_html(RUN, "en"))
    assert "It has memorised: 3 of 40 canaries are written out" in page
    assert "than 40 controls that were not (p = 0.0013)" in page
    assert "16×" in page
    _, korean = read(to_html(RUN, "ko"))
    assert "심어 둔 줄 40개 중 3개를 그대로 써내고" in korean
    assert "대조군 40개" in korean


def test_what_is_not_sure_is_said():
    nothing = {"exact_match": Interval(value=0.0, low=0.0, high=0.0)}
    evaluation = judged(line_differences=nothing, infill={})
    _, words = read(to_html(replace(RUN, evaluation=evaluation), "en"))
    assert "Whether it writes better lines is not sure" in words
    assert "no difference in any file" in words
    assert "too few files for an interval" in words  # names and similarity
    old = judged(line_differences={}, groups=(), infill={}, line_groups=())
    _, words = read(to_html(replace(RUN, evaluation=old), "en"))
    assert "no interval: evaluate again" in words
    assert "is not sure" not in words


def test_what_is_missing_is_said():
    _, words = read(to_html(BARE, "en"))
    for said in (
        "Not known", "The run has no adapter yet", "No training step was logged",
        "Nothing was planned", "The source tree was not read yet", "stopped in the middle",
    ):  # fmt: skip
        assert said in words, said
    _, words = read(to_html(replace(RUN, evaluation=None, path="/my runs/shop"), "en"))
    assert "The run was not evaluated" in words
    assert 'repotune evaluate "/my runs/shop"' in words
    _, words = read(to_html(replace(RUN, damaged=("x is damaged.",)), "en"))
    assert "x is damaged." in words


def test_without_the_drawing_library_the_page_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    _, words = read(to_html(RUN, "en"))
    assert "pip install matplotlib" in words


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_every_ruling_has_its_words(lang):
    found = set()
    for changes in (
        {}, {"files": 3}, {"difference": Interval(value=0.2, low=0.1, high=0.3)},
        {"difference": Interval(value=0.0, low=-0.1, high=0.1)},
        {"line_differences": {"name_recall": Interval(value=-0.2, low=-0.3, high=-0.1)}},
        {"forgetting": replace(FORGETTING, library=replace(LIBRARY, tuned_bits_per_byte=1.5))},
    ):  # fmt: skip
        evaluation = replace(EVALUATION, **changes)
        judgement = judge(evaluation)
        found.add(judgement.ruling)
        said = verdict_text.reason(evaluation, judgement, lang)
        assert "{" not in said
        _, words = read(to_html(replace(RUN, evaluation=judged(**changes)), lang))
        assert f"{verdict_text.headline(judgement, lang)}{said}" in words
    assert found == set(get_args(Ruling))
    assert set(texts.REASONS_KO) == set(get_args(Reason))


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# The page in frames of two widths, in both colour schemes; what overflows, and what is not drawn.
LOOK = """<!doctype html><meta charset="utf-8"><body><script>
const page = PAGE;
const found = [];
for (const width of [400, 1280]) {
  const frame = document.createElement('iframe');
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  document.body.append(frame);
  frame.contentDocument.write(page);
  frame.contentDocument.close();
  const root = frame.contentDocument.documentElement;
  found.push(`width ${width} is ${root.clientWidth}`);
  if (root.scrollWidth > root.clientWidth) found.push(`page overflows at ${width}`);
  for (const one of root.querySelectorAll('body *')) {
    const box = one.getBoundingClientRect();
    if (box.right > width + 1 && !one.closest('pre, .table, svg, .memory'))
      found.push(`${one.tagName}.${one.className} overflows at ${width}`);
  }
  for (const svg of root.querySelectorAll('svg'))
    if (svg.getBoundingClientRect().height < 100) found.push(`a curve is flat at ${width}`);
  const style = frame.contentWindow.getComputedStyle(frame.contentDocument.body);
  found.push(`${style.color} on ${style.backgroundColor}`);
}
document.body.textContent = 'FOUND' + JSON.stringify(found) + 'END';
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_in_a_browser(lang, scheme, tmp_path):
    page = json.dumps(to_html(RUN, lang)).replace("</", "<\\/")
    look = tmp_path / "look.html"
    look.write_text(LOOK.replace("PAGE", page), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--dump-dom", look.as_uri(),
        ],
        check=True, capture_output=True, text=True, encoding="utf-8", timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    match = re.search(r"FOUND(\[.*?\])END</body>", done.stdout)
    assert match, done.stdout[:500]
    ground = {"light": "rgb(29, 36, 48) on rgb(255, 255, 255)",
              "dark": "rgb(228, 232, 238) on rgb(20, 24, 30)"}[scheme]  # fmt: skip
    assert json.loads(match[1]) == ["width 400 is 400", ground, "width 1280 is 1280", ground]
