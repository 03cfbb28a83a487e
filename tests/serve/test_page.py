"""The page in a browser: by mouse and by keyboard, in both languages and colours, with a picture of each state.

Chromium is that of the system: `chromium` on the path, or what CHROMIUM names. Pictures go to the folder that
MANYHEADS_ARTIFACTS names, else to pytest's own.
"""

import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page
    from tests.serve.conftest import Live

    from manyheads.model import Model

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium on the path (set CHROMIUM)", allow_module_level=True)

ASSETS = Path(__file__).parents[2] / "src" / "manyheads" / "serve" / "page"
LONG = "the film was good and very warm but the story was dull"
ROWS = [
    {"id": str(i), "note": f'the "film", number {i}\nwas {"good" if i % 2 else "dull"}'} for i in range(60)
]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """One browser for all tests of this file."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go."""
    named = os.environ.get("MANYHEADS_ARTIFACTS")
    folder = Path(named) / "page" if named else tmp_path_factory.mktemp("page")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Seen:
    """A page in a browser, and what it complained of or asked for."""

    def __init__(self, context: "BrowserContext", live: "Live", pictures: Path) -> None:
        self.context, self.live, self.pictures = context, live, pictures
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.allowed = re.compile("^$")
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on(
            "console",
            lambda told: self.complaints.append(told.text) if told.type in ("error", "warning") else None,
        )
        context.set_default_timeout(20_000)
        self.page = context.new_page()

    def open(self, at: str = "") -> "Page":
        """The page, when it knows what is served."""
        self.page.goto(self.live.url + "/" + at)
        self.page.wait_for_selector("#examples button", state="attached")
        return self.page

    def picture(self, name: str) -> None:
        """Keep how it looks."""
        self.page.evaluate("() => window.scrollTo(0, 0)")
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=True, animations="disabled")

    def asked(self, **fields: str) -> "Page":
        """Type into fields, and wait for the answers."""
        for name, text in fields.items():
            self.page.fill(f"#field-{name}", text)
        self.page.click("#go")
        self.page.wait_for_selector("#answers article")
        self.page.wait_for_selector("#answers[aria-busy=false]")
        return self.page

    def card(self, task: str) -> Any:
        """The card of a task's answer."""
        return self.page.locator(f"article[aria-label={task!r}]")


@pytest.fixture(scope="module")
def shared(lasting: "Callable[..., Live]", every_kind: "Callable[[], Model]") -> "Live":
    """The service of all tests that want nothing special."""
    return lasting({"kinds": every_kind()})


@pytest.fixture
def seen(
    browser: "Browser",
    live: "Callable[..., Live]",
    shared: "Live",
    every_kind: "Callable[[], Model]",
    pictures: Path,
) -> "Iterator[Callable[..., Seen]]":
    """Opens the page of a service in a browser of its own; afterwards nothing may have gone wrong in it."""
    opened: list[Seen] = []

    def see(
        model: "Model | None" = None,
        *,
        token: str | None = None,
        limits: dict[str, Any] | None = None,
        **context: Any,
    ) -> Seen:
        special = (model, token, limits) != (None, None, None)
        service = live({"kinds": model or every_kind()}, token=token, limits=limits) if special else shared
        settings = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **context}
        opened.append(Seen(browser.new_context(**settings), service, pictures))
        return opened[-1]

    yield see
    for one in opened:
        one.context.close()
        assert [told for told in one.complaints if not one.allowed.search(told)] == []
        assert one.hosts <= {urlsplit(one.live.url).netloc}  # never another host


def inner(locator: Any) -> list[str]:
    texts: list[str] = locator.all_inner_texts()
    return [text.replace("\u2060", "") for text in texts]


# ---- to ask ----


def test_a_text_is_answered_by_every_head(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    one.picture("ask-empty")
    assert inner(page.locator("#empty li")) == [
        "mood · classification",
        "short · classification",
        "deep · classification",
        "names · entities",
    ]
    one.asked(text=LONG)
    assert inner(page.locator("#answers h3")) == ["mood", "short", "deep", "names"]
    (wanted,) = one.live.model.analyze([LONG])
    for task in ("mood", "short", "deep"):
        told = wanted[task].probabilities
        assert told is not None
        card = one.card(task)
        best = sorted(told.items(), key=lambda pair: -pair[1])
        assert inner(card.locator(".bars .name")) == [label for label, _ in best]
        shares = [float(text.rstrip("%")) / 100 for text in inner(card.locator(".bars .share"))]
        assert shares == pytest.approx([share for _, share in best], abs=6e-4)
        width = card.locator(".fill").first.bounding_box()["width"]
        track = card.locator(".track").first.bounding_box()["width"]
        assert width / track == pytest.approx(best[0][1], abs=0.02)
        assert inner(card.locator(".headline strong")) == [wanted[task].label]
    # The task that reads 6 tokens says that it has not read all.
    assert "8 tokens were not read" in inner(one.card("short").locator(".note"))[0]
    assert one.card("mood").locator(".note").count() == 0
    assert page.locator("#took").inner_text().startswith("4 answers in ")
    assert page.locator("#status").text_content() == "4 answers have come."
    one.picture("ask-text")


def test_entities_are_marked_in_the_text(seen: "Callable[..., Seen]") -> None:
    one = seen()
    one.open()
    text = "🙂 ada was in rome, the 日本 film"  # a sign outside the plane counts one, as it does in Python
    one.asked(text=text)
    wanted = one.live.model.predict("names", [text])[0].spans
    assert wanted
    card = one.card("names")
    marks = inner(card.locator("mark"))
    assert marks == [span.text + span.label for span in wanted]
    assert card.locator(".marked").inner_text().replace("\u2060", "").replace("PER", "") == text
    rows = card.locator("tbody tr")
    assert [inner(rows.nth(at).locator("td"))[:2] for at in range(rows.count())] == [
        [span.text, span.label] for span in wanted
    ]


def test_an_answer_is_marked_in_its_passage(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    page.get_by_text("Question", exact=True).click()
    passage = "ada was in rome and the film was good"
    for question in ("where was ada", "the film", "who", "rome", "good", "a", "it was the end"):
        wanted = one.live.model.predict("answer", [(question, passage)])[0]
        one.asked(question=question, passage=passage)
        page.wait_for_function(
            "told => document.querySelector('article .headline strong').textContent === told",
            arg=wanted.label or "The passage does not answer this.",
        )
        found = inner(one.card("answer").locator("mark"))
        assert found == ([wanted.label] if wanted.label else [])
    one.picture("ask-question")


def test_pairs_and_candidates(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    page.get_by_text("Two texts", exact=True).click()
    one.asked(first="a good film", second="a bad film")
    assert inner(page.locator("#answers h3")) == ["pairs", "packed"]
    value = one.live.model.predict("pairs", [("a good film", "a bad film")])[0].value
    assert value is not None
    assert float(one.card("pairs").locator(".headline").inner_text()) == pytest.approx(value, abs=1e-3)
    one.picture("ask-pair")
    page.get_by_text("Candidates", exact=True).first.click()
    texts = ["ugly", "warm", "the film was good"]
    one.asked(query="a good film", candidates="\n".join(texts))
    for task in ("ending", "order"):
        shares = one.live.model.predict(task, [("a good film", texts)])[0].shares
        wanted = sorted(range(3), key=lambda at: -shares[at])
        named = [text.split("\n")[-1].lstrip("123") for text in inner(one.card(task).locator(".name"))]
        assert named == [texts[at] for at in wanted]
    one.picture("ask-candidates")


def test_what_is_missing_is_told_and_found(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    page.click("#go")
    assert page.locator("#form-problem").inner_text() == "Type a text first."
    assert page.evaluate("() => document.activeElement.id") == "field-text"
    one.allowed = re.compile("413|422")
    page.fill("#field-text", "x" * 20_001)
    assert page.locator("#field-text").get_attribute("aria-invalid") == "true"
    page.click("#go")
    page.get_by_text("20,001 characters, at most 20,000 are taken").wait_for()
    page.fill("#field-text", "a film")
    page.click("#go")
    page.wait_for_selector("#answers article")
    assert page.locator("#form-problem").is_hidden()


def test_examples_can_be_tried(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    for language in ("en", "zh"):
        page.click(f"#language-{language}")
        modes = page.locator("#modes label")
        for mode in range(modes.count()):
            modes.nth(mode).click()
            count = page.locator("#examples button").count()
            assert count
            for at in range(count):
                page.locator("#examples button").nth(at).click()
                page.wait_for_selector("#answers article")
                page.wait_for_selector("#answers[aria-busy=false]")
                assert page.locator("#form-problem").is_hidden()


def test_which_words_moved_an_answer(seen: "Callable[..., Seen]") -> None:
    pytest.importorskip("captum", reason="the extra `explain` is not installed")
    one = seen()
    page = one.open()
    text = "the good film was ugly"
    one.asked(text=text)
    assert page.locator(".why").count() == 3  # not for entities
    card = one.card("mood")
    button = card.locator(".why > button")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    card.locator(".shaded").wait_for()
    assert card.locator(".shaded").inner_text() == text
    assert card.locator(".shaded .moved").count() >= 1
    chosen = card.locator("select").input_value()
    other = next(label for label in ("bad", "good") if label != chosen)

    def effects() -> dict[str, float]:
        card.locator("summary").click()
        rows = [inner(row.locator("td")) for row in card.locator("tbody tr").all()]
        return {word: float(effect.replace("−", "-")) for word, effect in rows}

    before = effects()
    assert set(before) <= set(text.split())
    one.picture("ask-why")
    card.locator("select").select_option(other)
    page.wait_for_function(
        "label => { const s = document.querySelector(\"article[aria-label='mood'] select\");"
        " return s && s.value === label && document.activeElement === s; }",
        arg=other,
    )
    after = effects()
    assert after.keys() == before.keys()
    assert after != before
    button.click()
    assert card.locator(".shaded").count() == 0


def test_without_captum_there_is_no_such_button(
    seen: "Callable[..., Seen]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from manyheads.serve import explaining

    monkeypatch.setattr(explaining, "find_spec", lambda name: None)
    one = seen(limits={})
    one.open()
    one.asked(text="a good film")
    assert one.page.locator(".why").count() == 0


def test_a_request_can_be_copied_as_curl(seen: "Callable[..., Seen]") -> None:
    one = seen(permissions=["clipboard-read", "clipboard-write"])
    page = one.open()
    page.fill("#field-text", 'it\'s a "film" $HOME `x` 日本')
    page.click("#curl")
    page.get_by_text("Copied", exact=True).first.wait_for()
    command = page.evaluate("() => navigator.clipboard.readText()")
    assert page.locator("#curl-text pre").text_content() == command
    words = shlex.split(command)
    assert words[0] == "curl"
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
        assert '"mood"' in done.stdout


def test_cleaned_texts_stand_beside_the_raw_ones(
    seen: "Callable[..., Seen]", every_kind: "Callable[[], Model]"
) -> None:
    pytest.importorskip("opencc", reason="opencc is not installed")
    from manyheads.encoder.clean import weibo

    model = every_kind()
    settings = model.tasks["mood"].kind.settings
    object.__setattr__(model.tasks["mood"].kind, "settings", settings.model_copy(update={"clean": "weibo"}))
    one = seen(model, locale="zh-CN")
    page = one.open()
    raw = "轉發 @小林 這部電影ＡＢＣ http://t.cn/abc"
    one.asked(text=raw)
    assert inner(one.card("mood").locator(".cleaned p")) == [raw, weibo(raw)]
    assert one.card("deep").locator(".cleaned").count() == 0
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    one.picture("ask-cleaned-zh")


# ---- files ----


def table(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def choose(page: "Page", content: bytes, name: str = "inbox.csv") -> None:
    page.click("#tab-file")
    page.set_input_files("#file", {"name": name, "mimeType": "text/csv", "buffer": content})
    page.wait_for_selector("#file-preview td:visible, #file-problem:visible")


def test_a_file_comes_back_labelled(seen: "Callable[..., Seen]", tmp_path: Path) -> None:
    one = seen()
    page = one.open()
    page.click("#tab-file")
    one.picture("file-empty")
    choose(page, table(ROWS))
    assert inner(page.locator("#file-preview th")) == ["id", "note"]
    assert inner(page.locator("#file-preview tbody tr").first.locator("td"))[0] == "0"
    assert page.locator("#file-columns select").input_value() == "note"  # no column `a`: the longest texts
    page.locator("#file-probabilities").check()
    one.picture("file-chosen")
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])")
    assert "60 rows are labelled" in page.locator("#file-done-text").inner_text()
    one.picture("file-done")
    with page.expect_download() as awaited:
        page.click("#file-save")
    assert awaited.value.suggested_filename == "inbox-labelled.csv"
    awaited.value.save_as(tmp_path / "back.csv")
    with (tmp_path / "back.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    wanted = one.live.model.predict("mood", [row["note"] for row in ROWS])
    assert [{key: row[key] for key in ("id", "note")} for row in found] == ROWS
    for row, told in zip(found, wanted, strict=True):
        assert told.score is not None
        assert told.probabilities is not None
        assert row["label"] == told.label
        assert float(row["score"]) == pytest.approx(told.score, abs=1e-5)
        assert float(row["p:bad"]) == pytest.approx(told.probabilities["bad"], abs=1e-5)
        assert row["truncated"] == str(told.truncated).lower()
    assert [inner(row.locator("td"))[0] for row in page.locator("#file-result tbody tr").all()] == list(
        "01234"
    )


class Gate:
    """Lets passes of encoders through one by one while it is held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from manyheads.encoder.bert import Encoder

        self.open = threading.Event()
        self.passes = 0
        plain = Encoder.encode

        def slow(encoder: Encoder, *arguments: Any, **settings: Any) -> Any:
            self.passes += 1
            if self.passes > 12:
                self.open.wait(20)
            return plain(encoder, *arguments, **settings)

        monkeypatch.setattr(Encoder, "encode", slow)


def test_progress_is_shown_and_work_can_be_cancelled(
    seen: "Callable[..., Seen]", monkeypatch: pytest.MonkeyPatch
) -> None:
    one = seen(limits={"batch_tokens": 64})
    page = one.open()
    choose(page, table(ROWS * 20))
    gate = Gate(monkeypatch)
    page.click("#file-go")
    page.wait_for_selector("#file-progress[value]")
    page.get_by_text(re.compile(r"^\d+ of 1,200 rows$")).first.wait_for()
    assert page.evaluate("() => document.activeElement.id") == "file-cancel"
    assert page.locator("#file-go").is_disabled()
    one.picture("file-progress")
    begun = gate.passes
    page.click("#file-cancel")
    page.get_by_text(re.compile(r"^Cancelled after \d+ of 1,200 rows\.$")).wait_for()
    assert page.locator("#file-done").is_hidden()
    one.picture("file-cancelled")
    gate.open.set()
    one.live.idle()  # the service has stopped, although hundreds of rows were left
    assert gate.passes <= begun + 4
    monkeypatch.undo()
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])", timeout=60_000)
    assert "1,200 rows" in page.locator("#file-done-text").inner_text()


def test_what_is_wrong_with_a_file_is_told(seen: "Callable[..., Seen]") -> None:
    one = seen(limits={"file": 6_000_000, "files": 1})
    one.allowed = re.compile("422|429")
    page = one.open()
    problem = page.locator("#file-problem")

    def told(content: bytes, *, go: bool = False) -> str:
        choose(page, content)
        if go:
            page.click("#file-go")
        problem.wait_for()
        text: str = problem.inner_text()
        return text

    assert told(b"") == "The file is empty."
    assert "not UTF-8" in told("a\ncafé\n".encode("latin-1"))
    assert "not UTF-8" in told("a\nx\n".encode("utf-16"))
    assert told(b"a\n" + b"x" * 6_000_000) == "The file has 5.7 MiB; at most 5.7 MiB are taken."
    assert "row 2 (line 3)" in told(b"a,b\nx,y\nz\n", go=True)
    one.picture("file-problem")
    # One that is refused at once, with much more to send than a connection holds.
    one.live.service.labelling = 1
    assert "busy" in told(b"a\n" + b"the film was good\n" * 250_000, go=True)
    one.live.service.labelling = 0
    choose(page, b"a\nx\n")
    assert problem.is_hidden()
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])")


# ---- language, colours, keyboard ----


def test_every_text_is_in_both_languages(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    texts = page.evaluate("async () => (await import('/page/words.js')).TEXTS")
    assert list(texts["en"]) == list(texts["zh"])
    for key, text in texts["en"].items():
        other = texts["zh"][key]
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", other)), key
        assert re.search("[\u4e00-\u9fff]", other) or not re.search("[A-Za-z]{2}", text.partition("{")[0]), (
            key
        )
    source = "".join(
        file.read_text(encoding="utf-8") for file in ASSETS.iterdir() if file.suffix in (".js", ".html")
    )
    used = set(re.findall(r'say\(\s*"(\w+)"', source)) | set(
        re.findall(r'data-(?:text|label|title)="(\w+)"', source)
    )
    assert used <= set(texts["en"])


def test_the_language_is_switched_and_kept(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    one.asked(text="a good film")
    assert page.locator("html").get_attribute("lang") == "en"
    page.click("#language-zh")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.title().endswith("多种回答")
    assert page.locator("#go span").inner_text() == "分析"
    assert page.locator("#language-zh").get_attribute("aria-pressed") == "true"
    assert page.locator("#field-text").input_value() == "a good film"  # what was typed and answered stays
    assert page.locator("#answers article").count() == 4
    assert page.locator("#took").inner_text().startswith("4 个回答")
    one.picture("ask-text-zh")
    for tab in ("file", "tasks"):
        page.click(f"#tab-{tab}")
        said = page.locator(f"#view-{tab}").inner_text()
        assert re.search("[\u4e00-\u9fff]", said)
        one.picture(f"{tab}-zh")
    page.reload()
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_what_the_service_refuses_is_told_in_the_language(seen: "Callable[..., Seen]") -> None:
    from manyheads.serve.problems import PROBLEMS

    one = seen()
    one.allowed = re.compile("422")
    page = one.open()
    texts = page.evaluate("async () => (await import('/page/words.js')).PROBLEMS")
    assert list(texts) == ["zh"]  # the service speaks English itself
    assert list(texts["zh"]) == list(PROBLEMS)
    page.click("#language-zh")
    page.click("#tab-file")
    choose(page, b"a,b\nx,y\nz\n")
    page.click("#file-go")
    problem = page.locator("#file-problem")
    problem.wait_for()
    said = problem.inner_text()
    assert said.startswith("内容不符合要求\uff1a")
    assert "row 2 (line 3)" in said


CONTRAST = """
() => {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+(?:e-?\\d+)?/g).map(Number);
    return color.startsWith("color(") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const light = (color) => {
    const [r, g, b] = color.slice(0, 3).map((one) => {
      const part = one / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
    return layers.reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (one.matches(".hidden, option, :disabled, noscript")) continue;
    const style = getComputedStyle(one);
    const ground = behind(one);
    const text = over(parse(style.color), ground);
    const [high, low] = [light(text), light(ground)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.push([one.tagName, one.className, one.textContent.slice(0, 30), ratio]);
  }
  return poor;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(seen: "Callable[..., Seen]", scheme: str) -> None:
    """Contrast AA (WCAG 2.2, 1.4.3) of all that is shown, measured against what lies behind it."""
    one = seen(color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"])
    page = one.open()
    assert page.evaluate(CONTRAST) == []
    one.asked(text=LONG)
    if one.live.service.explainer.possible:
        one.card("mood").locator(".why > button").click()
        one.card("mood").locator(".shaded").wait_for()
    page.click("#curl")
    page.locator(".toast.shown").wait_for()
    page.wait_for_timeout(300)  # it fades in
    assert page.evaluate(CONTRAST) == []
    one.picture(f"ask-{scheme}")
    page.get_by_text("Candidates", exact=True).first.click()
    page.locator("#examples button").first.click()
    page.wait_for_selector("#answers article")
    page.wait_for_selector("#answers[aria-busy=false]")
    assert page.evaluate(CONTRAST) == []
    page.get_by_text("Question", exact=True).click()
    page.locator("#examples button").first.click()
    page.wait_for_selector("#answers article")
    page.wait_for_selector("#answers[aria-busy=false]")
    assert page.evaluate(CONTRAST) == []
    page.click("#tab-tasks")
    assert page.evaluate(CONTRAST) == []
    one.picture(f"tasks-{scheme}")
    choose(page, table(ROWS))
    assert page.evaluate(CONTRAST) == []
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])")
    assert page.evaluate(CONTRAST) == []
    one.picture(f"file-{scheme}")
    page.set_input_files("#file", {"name": "x.csv", "mimeType": "text/csv", "buffer": b""})
    page.locator("#file-problem").wait_for()
    assert page.evaluate(CONTRAST) == []


def test_dark_colours_are_switched_and_kept(seen: "Callable[..., Seen]") -> None:
    one = seen(color_scheme="light")
    page = one.open()

    def ground() -> int:
        color = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    switch = page.locator("#theme")
    assert ground() > 600
    assert switch.get_attribute("aria-pressed") == "false"
    page.emulate_media(color_scheme="dark")  # the system's choice, while none is made here
    assert ground() < 150
    page.wait_for_selector("#theme[aria-pressed=true]")  # the page hears of it after the colours have changed
    switch.click()
    assert ground() > 600
    page.reload()
    assert ground() > 600  # kept against the system's
    page.emulate_media(color_scheme="light")
    switch.click()
    assert ground() < 150
    assert switch.get_attribute("aria-pressed") == "true"


def test_it_is_used_by_keyboard_alone(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()

    def at() -> str:
        found: str = page.evaluate(
            "() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
        )
        return found

    def walk(to: str, most: int = 30) -> list[str]:
        passed = []
        for _ in range(most):
            page.keyboard.press("Tab")
            passed.append(at())
            if passed[-1] == to:
                return passed
        raise AssertionError(f"never came to {to}: {passed}")

    page.keyboard.press("Tab")
    assert at() == "skip"
    box = page.locator(".skip").bounding_box()
    assert box is not None
    assert box["y"] >= 0  # seen while it has the focus
    page.keyboard.press("Enter")
    assert at() == "main"
    walk("field-text")
    page.keyboard.type("a good film")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answers article")
    passed = walk("quiet")
    assert passed[-2:] == ["curl", "quiet"]  # from the form to the first answer
    if one.live.service.explainer.possible:
        page.keyboard.press("Enter")
        page.locator(".shaded").first.wait_for()
    page.locator("#tab-ask").focus()
    page.keyboard.press("ArrowRight")
    assert at() == "tab-file"
    assert page.locator("#view-file").is_visible()
    assert page.locator("#view-ask").is_hidden()
    walk("file")
    outline = page.evaluate("() => getComputedStyle(document.getElementById('drop')).outlineStyle")
    assert outline == "solid"  # the focus is seen
    page.set_input_files("#file", {"name": "x.csv", "mimeType": "text/csv", "buffer": table(ROWS)})
    walk("file-go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#file-done:not([hidden])")
    page.wait_for_function("() => document.activeElement.id === 'file-save'")
    page.locator("#tab-file").focus()
    page.keyboard.press("End")
    assert at() == "tab-tasks"
    page.keyboard.press("ArrowRight")
    assert at() == "tab-ask"


def test_everything_has_a_name_for_those_who_listen(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    one.asked(text=LONG)
    for tab in ("ask", "file", "tasks"):
        page.click(f"#tab-{tab}")
        if tab == "file":
            choose(page, table(ROWS))
        session = one.context.new_cdp_session(page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        named = {
            "button",
            "textbox",
            "combobox",
            "checkbox",
            "radio",
            "tab",
            "link",
            "tabpanel",
            "region",
            "article",
        }
        seen_roles = set()
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in named and not node.get("ignored"):
                seen_roles.add(role)
                assert node.get("name", {}).get("value"), (tab, node)
        assert {"button", "tab", "tabpanel"} <= seen_roles


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_it_fits_a_phone(seen: "Callable[..., Seen]", language: str) -> None:
    one = seen(viewport={"width": 360, "height": 740}, locale=language, has_touch=True, is_mobile=True)
    page = one.open()

    def fits() -> None:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360

    modes = page.locator("#modes label")
    for mode in range(modes.count()):
        modes.nth(mode).click()
        page.locator("#examples button").first.click()
        page.wait_for_selector("#answers article")
        page.wait_for_selector("#answers[aria-busy=false]")
        fits()
        one.picture(f"phone-{language[:2]}-{mode}")
    choose(page, table(ROWS))
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])")
    fits()
    one.picture(f"phone-{language[:2]}-file")
    page.click("#tab-tasks")
    fits()
    one.picture(f"phone-{language[:2]}-tasks")
    small = page.evaluate(
        "() => [...document.querySelectorAll('button, select, a.button')].filter((one) => one.checkVisibility())"
        ".map((one) => [one.textContent, one.getBoundingClientRect().height]).filter(([, high]) => high < 24)"
    )
    assert small == []  # targets are large enough (WCAG 2.2, 2.5.8)


# ---- the token, and a service that is gone ----


def test_a_token_is_asked_for_and_kept_in_the_tab(seen: "Callable[..., Seen]") -> None:
    one = seen(token="quite secret")
    one.allowed = re.compile("401")
    page = one.page
    page.goto(one.live.url)
    page.wait_for_selector("#token[open]")
    one.picture("token")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("That is not the token of this service.").wait_for()
    page.fill("#token-value", "quite secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#examples button")
    assert not page.locator("#token").is_visible()
    assert page.input_value("#token-value") == ""
    one.asked(text="a good film")
    page.click("#curl")
    command = page.locator("#curl-text pre").text_content()
    assert command is not None
    assert "Bearer $TOKEN" in command
    assert "quite secret" not in command
    kept = page.evaluate(
        "() => [JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage}), document.cookie]"
    )
    assert "quite secret" not in kept[0] + kept[2]
    assert "quite secret" in kept[1]
    page.reload()
    page.wait_for_selector("#examples button", state="attached")
    page.click("#tab-tasks")
    assert page.locator("#docs").is_hidden()  # a link carries no token
    choose(page, table(ROWS))
    page.click("#file-go")
    page.wait_for_selector("#file-done:not([hidden])")
    other = one.context.new_page()
    other.goto(one.live.url)
    other.wait_for_selector("#token[open]")
    other.close()
    assert "quite secret" not in "".join(one.live.log)


def test_a_service_that_is_gone_is_told(seen: "Callable[..., Seen]") -> None:
    one = seen()
    one.allowed = re.compile("Failed to load resource")
    page = one.open()
    page.route("**/v1/**", lambda route: route.abort())
    page.fill("#field-text", "a film")
    page.click("#go")
    page.get_by_text("The service does not answer.").wait_for()
    page.unroute("**/v1/**")
    page.click("#go")
    page.wait_for_selector("#answers article")


def test_the_page_is_asked_for_once(seen: "Callable[..., Seen]") -> None:
    one = seen()
    page = one.open()
    found: dict[str, int] = {}
    page.on("response", lambda answer: found.__setitem__(urlsplit(answer.url).path, answer.status))
    page.reload()
    page.wait_for_selector("#examples button", state="attached")
    names = {f"/page/{file.name}" for file in ASSETS.iterdir() if file.suffix in (".js", ".css")}
    assert names <= set(found)
    status, _ = one.live.get("/page/app.js")
    assert status == 200
    policy = page.evaluate("async () => (await fetch('/')).headers.get('content-security-policy')")
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    html = (ASSETS / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<script>|<style|https?://", html)
    for file in ASSETS.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|https?://", file.read_text("utf-8")
        ) or (
            file.name == "words.js"  # an address stands in an example
        )
