"""The page is self-contained, safe against what models write, complete, and always the same."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.parity.sheets_for_tests import (
    GOLDS,
    JSON,
    LABEL,
    TEXT,
    documents,
    flipped,
    items_of,
    sheet,
)

from stillhouse.exchanges.errors import InputError
from stillhouse.parity import wording
from stillhouse.parity.card import write_model_card
from stillhouse.parity.cost import (
    NOT_MEASURED,
    ModelCost,
    Price,
    Speed,
    TrainingCost,
    cost_report,
)
from stillhouse.parity.judgement import JudgeConfig, Judgement
from stillhouse.parity.judging import judge
from stillhouse.parity.plots import Curve
from stillhouse.parity.report import ReportInputs, render_page, report_json, write_report
from stillhouse.parity.standing import standing
from stillhouse.parity.verdict import MarginRecord
from stillhouse.teachers.chat import Reply

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\"'`|\u202e\x00"
RECORD = MarginRecord(recipe_digest="ab" * 32, recorded_at="2026-01-02T03:04:05+00:00")
CONFIG = JudgeConfig(task=LABEL, margin=5.0, margin_record=RECORD, resamples=300)
SPEED = Speed(
    runtime="transformers",
    dtype="float32",
    threads=2,
    batch_size=8,
    requests=64,
    batch_p50_us=90_000,
    batch_p95_us=120_000,
    us_per_request=12_000,
    requests_per_second=83.3,
    tokens_per_second=None,
    peak_memory_bytes=None,
)


class Reader(HTMLParser):
    """Collects tags, attributes and ids, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def judgement(texts: list[str | None] | None = None, **change: object) -> Judgement:
    student = sheet(texts or list(flipped(GOLDS, range(20))))
    baselines = {"majority": sheet(["yes"] * 200), "tfidf": sheet(flipped(GOLDS, range(60)))}
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    return judge(items_of(GOLDS), sheet(GOLDS), student, baselines, config)


def model(name: str, speed: Speed | None, nano: int | None) -> ModelCost:
    return ModelCost(
        name=name,
        parameters=135_000_000,
        flops_per_token=None,
        disk_bytes=None,
        speed=speed,
        speed_note="" if speed else NOT_MEASURED,
        price=Price(nano_per_thousand=nano, basis="price list"),
    )


def full() -> ReportInputs:
    training = TrainingCost(
        labelling_us=1, labelling_nano=2, teacher_tokens=3, training_us=4, training_nano=None
    )
    return ReportInputs(
        title="Sentiment",
        judgement=judgement(),
        created="2026-01-02T04:00:00+00:00",
        cost=cost_report(model("big", SPEED, 500), model("small", SPEED, 100), training),
        curves=(Curve(title="t", x_label="x", y_label="y", points=((0, 1), (1, 2)), chosen=1),),
        data={"source": "a file"},
        terms={"teacher": "outputs may train other models"},
        baselines={"tfidf": "C = 3"},
        machine={"cores": "2"},
        reproduce=("stillhouse judge r.yaml",),
        notes=("One more limit.",),
    )


def bare() -> ReportInputs:
    found = judge(
        [dataclasses.replace(item, slice=None) for item in items_of(GOLDS)],
        sheet(GOLDS),
        sheet(GOLDS),
        {},
        CONFIG,
    )
    return ReportInputs(title="Bare", judgement=found, created="today")


@pytest.mark.parametrize("inputs", [full(), bare()], ids=["full", "bare"])
def test_the_page_loads_nothing_from_anywhere(inputs: ReportInputs) -> None:
    page = render_page(inputs)
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert all(name not in ("src", "srcset", "action") for name, _ in reader.attributes)
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_ids_are_unique_and_targets_exist() -> None:
    page = render_page(full())
    reader = read(page)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in reader.attributes if name == "href"}
    targets |= {value for name, value in reader.attributes if name == "aria-labelledby"}
    targets |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert targets <= set(ids)


def test_the_verdict_stands_on_top_in_words() -> None:
    page = render_page(full())
    verdict = full().judgement.verdict
    assert verdict.sentence in page
    assert page.index(verdict.sentence) < page.index("<h2")
    assert "<title>Inferior: Sentiment</title>" in page
    assert "2026-01-02 03:04 UTC" in page


def test_what_a_model_or_a_user_writes_is_only_text() -> None:
    texts: list[str | None] = [HOSTILE] * 30 + [*GOLDS[30:]]
    items = [
        dataclasses.replace(item, variable=HOSTILE, slice=HOSTILE, group=HOSTILE + item.id)
        for item in items_of(GOLDS)
    ]
    config = dataclasses.replace(CONFIG, student_name=HOSTILE, teacher_name="$x$ & <b>")
    found = judge(items, sheet(GOLDS), sheet(texts), {HOSTILE + "2": sheet(texts)}, config)
    inputs = dataclasses.replace(
        full(),
        title=HOSTILE,
        judgement=found,
        created=HOSTILE,
        data={HOSTILE: HOSTILE},
        terms={HOSTILE: HOSTILE},
        reproduce=(HOSTILE,),
        notes=(HOSTILE,),
        cost=cost_report(model(HOSTILE, SPEED, 5), model(HOSTILE, None, None), None),
        curves=(Curve(title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, points=((0, 1),)),),
    )
    page = render_page(inputs)
    reader = read(page)
    assert not {"script", "img", "b"} & set(reader.tags)
    assert "alert(1)" in page  # shown, as text
    assert "49" not in re.findall(r"error=alert\(2\)&gt;(\d+)", page)
    assert "$x$" in page
    assert "\u202e" not in page
    assert "\x00" not in page


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=40))
def test_no_reply_breaks_the_page(text: str) -> None:
    config = JudgeConfig(task=TEXT, margin=5.0, resamples=300, metrics=())
    items = items_of(["some words"] * 12)
    found = judge(items, sheet(["some words"] * 12), sheet([text] * 12), {}, config)
    page = render_page(ReportInputs(title=text, judgement=found, created="now"))
    tags = read(page.encode("utf-8", "replace").decode()).tags
    assert "script" not in tags


def test_every_section_says_what_it_lacks() -> None:
    page = render_page(bare())
    for absent in (
        "No cost was measured",
        "No learning curve was recorded",
        "The items name no slices",
        "no item on which the student loses",
        "Where the data came from was not recorded",
        "No terms were checked",
        "No command was recorded",
    ):
        assert absent in page


def test_every_baseline_that_is_absent_is_named_with_its_reason(tmp_path: Path) -> None:
    inputs = dataclasses.replace(bare(), absent={"gold_trained": "nobody asked for it"})
    page = render_page(inputs)
    found = report_json(inputs)["absent"]
    assert list(found) == list(standing("label", "accuracy")), "none was judged"
    assert found["gold_trained"] == "nobody asked for it"
    for name, why in found.items():
        assert f"<dt>{wording.short(name)}</dt>" in page
        assert why in page
    files = write_report(tmp_path, inputs)
    card = write_model_card(tmp_path, files.data).read_text()
    assert "- Not beside it: the same student trained on gold answers (nobody asked" in card
    assert "tfidf" not in report_json(full())["absent"], "what was judged is not absent"


def test_a_teacher_behind_an_api_has_a_price_and_no_speed() -> None:
    cost = cost_report(model("api", None, 593_000), model("small", SPEED, None), None)
    page = render_page(dataclasses.replace(full(), cost=cost))
    assert NOT_MEASURED in page
    assert "$0.00059" in page
    assert "Training was not part of this run" in page


def test_counts_of_failures_are_shown() -> None:
    texts: list[str | None] = [None, "I'm sorry, I can't", "hmm", *GOLDS[3:]]
    page = render_page(dataclasses.replace(full(), judgement=judgement(texts)))
    row = re.search(
        r'<tr class="student"><th scope="row">student\s*</th>\s*<td.*?</tr>',
        page[page.index("How the answers came out") :],
        re.DOTALL,
    )
    assert row is not None
    assert re.findall(r'<td class="n">(\d+)</td>', row.group(0)) == ["197", "1", "1", "1", "0", "0"]


def test_documents_are_shown_side_by_side_with_what_differs_marked() -> None:
    found = judge(
        items_of(documents(60)),
        sheet(documents(60)),
        sheet(documents(60, wrong_b=range(5))),
        {},
        JudgeConfig(task=JSON, margin=5.0, resamples=300),
    )
    page = render_page(dataclasses.replace(full(), judgement=found))
    assert (
        "<mark>-1</mark>" in page.replace("<mark>-</mark>1", "<mark>-1</mark>") or "<mark>" in page
    )
    assert page.count('<details class="item"') == 5


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = write_report(tmp_path / name, full())
        written.append((files.page.read_bytes(), files.data.read_bytes()))
    assert written[0] == written[1]


def test_the_json_holds_the_same_figures() -> None:
    inputs = full()
    data = json.loads(json.dumps(report_json(inputs), allow_nan=False))
    assert data["format"] == "stillhouse-report/1"
    assert data["judgement"]["verdict"]["bound"] == inputs.judgement.verdict.bound
    assert len(data["judgement"]["comparisons"]) == len(inputs.judgement.comparisons)
    assert data["cost"]["break_even"] is None
    assert data["curves"][0]["points"] == [[0, 1], [1, 2]]


@pytest.mark.parametrize("inputs", [full(), bare()], ids=["full", "bare"])
def test_the_model_card_is_written_from_the_report_alone(
    tmp_path: Path, inputs: ReportInputs
) -> None:
    files = write_report(tmp_path, inputs)
    card = write_model_card(tmp_path, files.data).read_text()
    verdict = inputs.judgement.verdict
    assert wording.span(verdict.interval, verdict.unit, sign=True) in card
    assert f"| student | {inputs.judgement.student.scores[0].value:.1f} |" in card
    data = json.loads(files.data.read_text())
    data["judgement"]["sheets"][1]["scores"][0]["value"] = 12.34
    files.data.write_text(json.dumps(data))
    assert "| student | 12.3 |" in write_model_card(tmp_path, files.data).read_text()


def test_a_card_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the report"):
        write_model_card(tmp_path, tmp_path / "report.json")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="not a report of format"):
        write_model_card(tmp_path, tmp_path / "report.json")
    assert not (tmp_path / "README.md").exists()


def test_a_hostile_name_stays_text_in_the_card(tmp_path: Path) -> None:
    inputs = dataclasses.replace(full(), title=HOSTILE, terms={"a|b": "x\n# heading"})
    card = write_model_card(tmp_path, write_report(tmp_path, inputs).data).read_text()
    assert "\\<script\\>" in card
    assert "\n# heading" not in card
    assert "a\\|b" in card


@pytest.mark.parametrize(
    ("us", "said"),
    [(None, "unknown"), (12, "12 \u00b5s"), (12_300, "12.3 ms"), (425_000_000, "7 min 5 s")],
)
def test_durations_read_well(us: int | None, said: str) -> None:
    assert wording.duration(us) == said


def test_numbers_read_well() -> None:
    assert wording.count(134_515_008) == "134.5 M"
    assert wording.size(512) == "512 B"
    assert wording.size(269_000_000) == "269 MB"
    assert wording.signed(-0.04, "points") == "0.0"
    assert wording.signed(-1.25, "points") in ("\u22121.2", "\u22121.3")
    assert wording.shown("a" * 2000).endswith("(500 more characters)")
    assert wording.duration(7_260_000_000) == "2 h 1 min"


def test_rates_are_written_without_an_exponent() -> None:
    assert [wording.rate(value) for value in (0.126, 47.31, 1589.7)] == ["0.126", "47.3", "1,590"]
    fast = dataclasses.replace(SPEED, requests_per_second=1589.7)
    cost = cost_report(model("big", SPEED, 5_000), model("small", fast, 2_000), None)
    page = render_page(dataclasses.replace(full(), cost=cost))
    assert "1,590" in page
    assert not re.findall(r">[^<]*\de[+-]\d\d[^<]*<", page)
    assert "0.000002" in page, "the axis of costs"


def test_plots_fit_three_curves_a_line_and_name_their_axis_whole() -> None:
    title = "validation loss, nats per reply token"
    sizes = []
    for count in (1, 3, 5):
        curves = tuple(
            Curve(title=f"seed {n}", x_label="steps", y_label=title, points=((1, 2.0), (9, 1.0)))
            for n in range(count)
        )
        page = render_page(dataclasses.replace(full(), curves=curves))
        plot = page[page.index("plot-curve") :].partition("</svg>")[0]
        sizes.append(re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot))
        assert plot.count(f"seed {count - 1}") == 1
        assert plot.count(title) == -(-count // 3), "once a line"
    one, three, five = ((float(size[1]), float(size[2])) for size in sizes if size is not None)
    assert one == three, "so that letters are as large"
    assert five == (one[0], pytest.approx(2 * one[1]))


def test_levels_of_baselines_that_score_alike_do_not_cover_each_other() -> None:
    same = {
        name: sheet(flipped(GOLDS, range(count)))
        for count, name in enumerate(["majority", "tfidf", "tfidf_gold", "untrained", "plain"])
    }
    found = judge(items_of(GOLDS), sheet(GOLDS), sheet(GOLDS), same, CONFIG)
    page = render_page(dataclasses.replace(full(), judgement=found))
    plot = page[page.index("plot-cost") :]
    heights = []
    for name in ("majority", "TF-IDF", "TF-IDF on gold", "untrained", "plain training"):
        place = re.search(
            rf'y="([\d.]+)"[^>]*>{name}  [\d.]+<|translate\([\d.]+ ([\d.]+)\)[^>]*>{name}  [\d.]+<',
            plot,
        )
        assert place is not None, name
        heights.append(float(place[1] or place[2]))
    gaps = [abs(a - b) for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)]
    assert min(gaps) > 9, "a line of text is nine points high"


def test_a_student_that_is_not_shown_to_be_faster_is_not_called_so() -> None:
    cost = cost_report(model("big", SPEED, 500), model("small", SPEED, 100), None)
    unsure = dataclasses.replace(judgement().verdict.interval, estimate=1.3, low=0.6, high=2.8)
    found = dataclasses.replace(cost, speedup=unsure)
    page = render_page(dataclasses.replace(full(), cost=found))
    assert "1.3 times as fast as the teacher (not shown to be faster: 0.6 to 2.8 times)" in page


def test_no_verdict_on_a_teacher_where_no_lead_was_demanded() -> None:
    page = render_page(dataclasses.replace(full(), judgement=judgement(teacher_lead=None)))
    assert "Not asked: no lead over these was demanded, on test items" in page


def test_one_group_is_not_many_draws(tmp_path: Path) -> None:
    items = items_of(GOLDS, groups=1)
    found = judge(items, sheet(GOLDS), sheet(flipped(GOLDS, range(3))), {}, CONFIG)
    assert found.verdict.sentence.startswith("Within the one group tested, the student loses")
    assert "all 200 items are of one group ('g0')" in found.warnings[0]
    files = write_report(tmp_path, ReportInputs(title="t", judgement=found, created="today"))
    page, card = files.page.read_text(), write_model_card(tmp_path, files.data).read_text()
    assert "other items of the one group here, and of no other group" in page
    assert "in one group" in page
    assert "in one group" in card


def test_a_baseline_without_the_primary_metric_is_absent_with_its_reason(tmp_path: Path) -> None:
    def scored(wrong: int) -> dict[str, Reply]:
        sides = list(GOLDS)
        sides[:wrong] = ["no"] * wrong
        scores = {"yes": (-2.0, -0.1), "no": (-0.1, -2.0)}
        reply = Reply(text="", finish_reason="stop", model="m")
        return {
            f"i{n}": dataclasses.replace(reply, label_scores=scores[side])
            for n, side in enumerate(sides)
        }

    config = dataclasses.replace(CONFIG, primary="auc")
    baselines = {"majority": sheet(["yes"] * 200), "tfidf": scored(60)}
    found = judge(items_of(GOLDS), scored(0), scored(3), baselines, config)
    assert [one.name for one in found.sheets] == ["teacher", "student", "tfidf"]
    assert "needs label scores" in found.absent["majority"]
    files = write_report(tmp_path, ReportInputs(title="t", judgement=found, created="today"))
    assert "needs label scores" in files.page.read_text()
    assert "needs label scores" in json.loads(files.data.read_text())["absent"]["majority"]
    with pytest.raises(InputError, match="student: the area under the ROC curve needs label"):
        judge(items_of(GOLDS), scored(0), sheet(GOLDS), {}, config)
