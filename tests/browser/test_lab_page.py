"""The tabs Speedup lab and Token statistics as a visitor meets them."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path

import pytest
import soundfile
from browser_helpers import CLIPPED, button, open_page, status, upload, wait_until
from fakes import ANSWER, SAMPLE_RATE_HZ, FakeModel, tone
from playwright.sync_api import Page, Route, expect

from demo.examples import EXAMPLES
from demo.job import STOPPED
from demo.tabs.speedup_lab import YOURS
from vocalnet import DecodeOptions, lab, runs

TWO_BY_TWO = "?tab=lab&decoders=mtp_vocalnet,mtp_deepseek&steps=1,3"
ARCHIVE = "All, with every run (ZIP)"


@pytest.fixture
def run_file(tmp_path) -> Path:
    """A run of the fake model, from elsewhere."""
    options = DecodeOptions(tokens_per_step=2, seed=0, n_candidates=10)
    model = FakeModel()
    events = list(model.stream(audio=str(EXAMPLES[0].path), options=options))
    return runs.save(runs.record(model, events, options, "A dropped question?"), tmp_path / "dropped.zip")


def run_lab(page: Page) -> None:
    """Runs what is chosen."""
    button(page, "Run").click()
    expect(page.locator(".vn-done").locator("visible=true")).to_contain_text("Measured", timeout=60_000)


def cells(page: Page) -> list[list[str]]:
    """The texts of the table's rows."""
    rows = page.get_by_role("region", name="Speedup lab").locator("tbody tr")
    return [row.locator("th, td").all_text_contents() for row in rows.all()]


def download(page: Page, name: str) -> Path:
    """What a button gives."""
    with page.expect_download() as found:
        button(page, name).click()
    return found.value.path()


def drop(page: Page, path: Path) -> None:
    """Hands a run file to the statistics."""
    page.locator("input[type=file][accept*=zip]").set_input_files(path)


def bars(page: Page):
    """The tokens of the timeline."""
    return page.locator(".vn-strip i")


def test_a_two_by_two_lab_and_its_export(page, served):
    open_page(page, served.url, TWO_BY_TWO)
    expect(
        page.get_by_text("4 cells × 1 question × 3 rounds, with what they are compared with: up to 15 answers")
    ).to_be_visible()
    run_lab(page)
    table = cells(page)
    assert [row[:3] for row in table] == [
        ["mtp_vocalnet", "1", "fixed"],
        ["mtp_vocalnet", "3", "fixed"],
        ["mtp_deepseek", "1", "fixed"],
        ["mtp_deepseek", "3", "fixed"],
    ]
    players = page.locator(".vn-players .block").locator("visible=true")
    expect(players).to_have_count(4)
    with zipfile.ZipFile(download(page, ARCHIVE)) as archive:
        exported = list(csv.reader(io.StringIO(archive.read("table.csv").decode())))
        names = archive.namelist()
    assert exported == [list(lab.COLUMNS), *table]
    assert len([name for name in names if name.startswith("runs/")]) == 4
    assert download(page, "Table (CSV)").read_text().splitlines()[0].split(",") == list(lab.COLUMNS)
    for player in players.all():
        player.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("window.played.length >= 4 && window.played.some(audio => audio.currentTime > 0.2)")


def test_judges_and_several_questions(page, served):
    open_page(page, served.url, TWO_BY_TWO)
    page.get_by_label(EXAMPLES[1].text).locator("visible=true").check()
    page.get_by_label("Judge what is heard").check()
    run_lab(page)
    column = list(lab.COLUMNS).index("wer_percent")
    assert [row[column] for row in cells(page)] == ["10.0"] * 4
    expect(page.locator(".vn-figure img").locator("visible=true")).to_have_count(2)
    page.get_by_label("Answers to").click()
    page.get_by_role("option", name=EXAMPLES[1].text).click()
    expect(page.locator(".vn-players .block").locator("visible=true")).to_have_count(4)


def test_what_cannot_run_is_left_out_with_the_reason(page, served):
    open_page(page, served.url, "?tab=lab&decoders=ntp,mtp_vocalnet&steps=1,3")
    run_lab(page)
    assert len(cells(page)) == 3
    expect(page.get_by_text("ntp 3 was left out: this talker takes 1.")).to_be_visible()


def test_nothing_and_too_much_are_refused_at_once(page, served):
    open_page(page, served.url, "?tab=lab&decoders=ntp,mtp_vocalnet&steps=1,2,3,4,5&policies=fixed,greedy_verify")
    expect(page.get_by_text("This lab would have 20 cells; 16 are the most.")).to_be_visible()
    button(page, "Run").click()
    expect(status(page).last).to_contain_text("16 are the most")
    page.get_by_label(EXAMPLES[0].text).locator("visible=true").uncheck()
    expect(page.get_by_text("Choose or record at least one question.").first).to_be_visible()


def test_a_late_answer_does_not_take_the_size_back(page, served):
    open_page(page, served.url, TWO_BY_TWO)
    expect(page.get_by_text("4 cells × 1 question")).to_be_visible()
    held: list[Route] = []
    page.route("**/gradio_api/run/**", lambda route: route.continue_() if held else held.append(route))
    for choice in (EXAMPLES[1].text, "top_n"):
        page.get_by_label(choice, exact=True).locator("visible=true").check()
        page.wait_for_timeout(500)  # what is not held back is answered by then
    assert held
    held[0].continue_()
    page.wait_for_timeout(500)
    expect(page.get_by_text("8 cells × 2 questions")).to_be_visible()


def test_stop_ends_a_lab(page, served, tmp_path):
    soundfile.write(tmp_path / "slowly.wav", tone(0.5), SAMPLE_RATE_HZ)
    open_page(page, served.url, TWO_BY_TWO)
    page.get_by_label(EXAMPLES[0].text).locator("visible=true").uncheck()
    page.get_by_role("button", name=YOURS).click()
    upload(page, tmp_path / "slowly.wav")
    expect(page.get_by_text("4 cells × 1 question")).to_be_visible()
    button(page, "Run").click()
    expect(status(page).last).to_contain_text("Warming up")
    button(page, "Stop").click()
    expect(status(page).last).to_have_text(STOPPED)
    wait_until(lambda: served.model.n_closed == served.model.n_opened)
    expect(button(page, "Run")).to_be_enabled()
    expect(button(page, "Stop")).to_be_disabled()


def test_a_stopped_lab_keeps_what_it_has_finished(page, served, tmp_path):
    soundfile.write(tmp_path / "calmly.wav", tone(0.5), SAMPLE_RATE_HZ)
    open_page(page, served.url, "?tab=lab&decoders=ntp,mtp_vocalnet&steps=1")
    page.get_by_label(EXAMPLES[0].text).locator("visible=true").uncheck()
    page.get_by_role("button", name=YOURS).click()
    upload(page, tmp_path / "calmly.wav")
    expect(page.get_by_text("2 cells × 1 question")).to_be_visible()
    button(page, "Run").click()
    expect(page.get_by_role("region", name="Speedup lab").locator("tbody tr")).to_have_count(2, timeout=120_000)
    button(page, "Stop").click()
    expect(status(page).last).to_have_text(STOPPED)
    expect(button(page, "Table (CSV)")).to_be_enabled()
    assert len(download(page, "Table (CSV)").read_text().splitlines()) == 3
    with zipfile.ZipFile(download(page, ARCHIVE)) as archive:
        assert len([name for name in archive.namelist() if name.startswith("runs/")]) == 2
    expect(status(page).last).to_have_text(STOPPED)


def test_a_blind_test_tells_after_the_vote(page, served):
    open_page(page, served.url, TWO_BY_TWO)
    run_lab(page)
    page.get_by_role("button", name="Blind test").click()
    button(page, "Draw two answers").click()
    for name in ("A sounds better", "No difference", "B sounds better"):
        expect(button(page, name)).to_be_enabled()
    box = page.locator(".vn-blind")
    expect(box.get_by_text(re.compile("mtp_"))).to_have_count(0)
    button(page, "B sounds better").click()
    said = box.locator(".vn-done")
    expect(said).to_contain_text("You preferred mtp_")
    second = re.search(r"B was (\S+ \d)", said.text_content()).group(1)
    expect(page.get_by_role("region", name="Votes").locator("tbody tr").first).to_have_text(f"{second}11")
    expect(button(page, "B sounds better")).to_be_disabled()
    page.wait_for_timeout(500)
    with zipfile.ZipFile(download(page, ARCHIVE)) as archive:
        assert '"preferred": "second"' in archive.read("votes.json").decode()
    page.get_by_label(EXAMPLES[0].text).locator("visible=true").uncheck()
    button(page, "Run").click()
    expect(status(page).first).to_contain_text("Choose or record")
    page.wait_for_timeout(500)  # what was refused takes nothing away
    expect(page.get_by_role("region", name="Votes").locator("tbody tr").first).to_have_text(f"{second}11")


def test_statistics_of_a_dropped_run_file(page, served, run_file):
    open_page(page, served.url, "?tab=stats")
    drop(page, run_file)
    expect(status(page)).to_have_text("40 tokens proposed in 20 steps, 2.00 tokens kept per step.")
    for fact in ("A dropped question?", ANSWER, "mtp_vocalnet, 2 per step, fixed"):
        expect(page.get_by_text(fact, exact=True)).to_be_visible()
    expect(bars(page)).to_have_count(40)
    bars(page).nth(7).click()
    expect(page.locator(".vn-token-facts")).to_contain_text("Unit 7 · token 8 of 40, 0.28 s, head 1")
    expect(page.locator(".vn-candidate")).to_have_count(10)
    expect(page.locator(".vn-taken")).to_have_text("1.750 %")
    widths = page.evaluate(
        "[...document.querySelectorAll('.vn-track i')].map(i => i.offsetWidth / i.parentNode.offsetWidth)"
    )
    assert widths == pytest.approx([0.5 / (j + 1) for j in range(10)], abs=0.01)
    assert page.evaluate("document.querySelector('.vn-timeline audio').currentTime") == pytest.approx(0.28, abs=0.01)
    page.keyboard.press("Tab")
    page.locator(".vn-strip").press("ArrowRight")
    expect(page.locator(".vn-token-facts")).to_contain_text("token 9 of 40")
    expect(page.locator(".vn-figure img").locator("visible=true")).to_have_count(2)
    heads = page.get_by_role("region", name="Means by head").locator("tbody tr")
    expect(heads.nth(1)).to_contain_text("head 1")
    assert runs.load(rename(download(page, "Run file (ZIP)"))).question == "A dropped question?"
    assert len(download(page, "Tokens (CSV)").read_text().splitlines()) == 41


def rename(path: Path) -> Path:
    """Browsers keep downloads without a suffix."""
    return path.rename(path.with_suffix(".zip"))


def test_the_timeline_follows_the_sound(page, served, run_file):
    open_page(page, served.url, "?tab=stats")
    drop(page, run_file)
    expect(bars(page)).to_have_count(40)
    page.evaluate("document.querySelector('.vn-timeline audio').play()")
    page.wait_for_function("[...document.querySelectorAll('.vn-strip i')].findIndex(i => i.matches('.vn-now')) > 10")
    page.get_by_role("button", name="Maximum probability").click()
    expect(page.get_by_text("Height: maximum probability, 0 to 1")).to_be_visible()


def test_a_file_that_is_no_run_gets_a_sentence(page, served, tmp_path, run_file):
    (tmp_path / "broken.zip").write_bytes(run_file.read_bytes()[:300])
    open_page(page, served.url, "?tab=stats")
    drop(page, tmp_path / "broken.zip")
    expect(status(page)).to_contain_text("broken.zip is not a readable ZIP")


def test_an_answer_can_be_looked_at(page, served):
    open_page(page, served.url)
    page.get_by_text(EXAMPLES[2].text).locator("visible=true").click()
    button(page, "Answer").click()
    expect(status(page)).to_contain_text("Answered")
    page.get_by_role("tab", name="Token statistics").click()
    expect(status(page)).to_contain_text("40 tokens proposed")
    expect(page.get_by_label("A run of this visit")).to_have_value(re.compile("^1 · mtp_vocalnet 3 fixed"))
    expect(page.get_by_text(EXAMPLES[2].text, exact=True).locator("visible=true")).to_have_count(1)


def test_a_closed_page_is_forgotten(page, served):
    open_page(page, served.url, TWO_BY_TWO)
    n_before = len(served.app.visits)
    run_lab(page)
    assert len(served.app.visits) == n_before + 1
    page.close()
    wait_until(lambda: len(served.app.visits) <= n_before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_tabs_fit_a_phone(page, served, run_file, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    open_page(page, served.url, TWO_BY_TWO)
    run_lab(page)
    page.get_by_role("button", name="Blind test").click()
    button(page, "Draw two answers").click()
    expect(button(page, "No difference")).to_be_enabled()
    fits(page)
    page.get_by_role("tab", name="Token statistics").click()
    drop(page, run_file)
    expect(bars(page)).to_have_count(40)
    expect(page.locator(".vn-figure img").locator("visible=true")).to_have_count(2)
    fits(page)


def fits(page: Page) -> None:
    """Checks that nothing needs sideways scrolling and no text is cut."""
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(CLIPPED) == []
