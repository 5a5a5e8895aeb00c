"""Redaction of API keys: the forms that are recognized, its time, stored spans, and the switch that turns it off."""

from __future__ import annotations

import html
import json
import random
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from agentlightning.redaction import redact, redact_bytes
from agentlightning.replay.cassette import Cassette, RecordedCall
from agentlightning.runner.outcome import outcome_of_error
from agentlightning.store import InMemoryLightningStore

from .contract.making import claimed, span

KEY = "sk-proj-" + "a1B2" * 8
KEYS = (
    KEY,
    "sk-ant-api03-" + "x" * 40,
    "AKIA" + "A1" * 8,
    "AIza" + "b_-3" * 9,
    "ghp_" + "c" * 36,
    "github_pat_" + "d" * 50,
    "hf_" + "e" * 34,
    "xoxb-123456789012-abcdefghij",
    "Bearer eyJhbGciOi.abc-12345678",
    "agl-admin-" + "a" * 40,
    "agl-attempt-" + "g" * 60,
)
BEFORE = (
    *("", " ", "\n", "\t", "\r", "\0", "\x1b[31m", "\x1b[38;2;255;128;0m", "é", "日", "\N{ZERO WIDTH SPACE}", "😀"),
    *('"', "'", "\\", "/", "=", ":", "_", "-", ".", "%", "a-", "key=", "ключ", "Authorization: ", "a\\nb\n"),
)
REPRESENTATIONS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "JSON": json.dumps,
    "JSON without ASCII escapes": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps({"arguments": json.dumps({"x": text})}),
    "JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "Python": ascii,
    "Python in JSON": lambda text: json.dumps(repr({"x": text})),
    "URL": lambda text: "https://x.y/?q=" + quote(text),
    "JSON in a URL": lambda text: "https://x.y/?q=" + quote(json.dumps(text)),
    "URL in a URL": lambda text: "https://x.y/?q=" + quote(quote(text, safe=""), safe=""),
    "form": lambda text: "q=" + quote(text).replace("%20", "+"),
    "HTML": html.escape,
    "escaped hyphens": lambda text: json.dumps(text).replace("-", "\\u002d").replace("_", "\\u005f"),
    "every character escaped": lambda text: "".join(f"\\u{ord(each):04x}" for each in text if ord(each) < 0xFFFF),
    "every character escaped twice": lambda text: "".join(f"%25{byte:02X}" for byte in text.encode()),
}  # fmt: skip


ESCAPES_OF_S = (
    *("&#X73;", "&#0115;", "&#x0073;", "&#115", "&#x73", "&amp;#115;", "&amp;amp;#x73;"),
    *("\\u0026#115;", "%26%23115%3B", "%u0073", "%25u0073", "\\U00000073", "\\u{73}", "\\u{000073}", "\\163"),
    *("\\0163", "\\\\163", "=73"),
    *("%5Cu0073", "%5cx73", "%5C%5Cu0073", "%5C163", "%255Cu0073", "\\u005cu0073"),
    *("&#92;u0073", "&#37;73", "\\u002573"),
)  # fmt: skip
ESCAPES_BEFORE = (
    *("&#10", "&#010", "&#x0D", "&#233", "&amp", "&lt", "&gt", "&quot", "&nbsp", "=0a", "=0D=0a", "=c3=a9"),
    *("\\1", "\\12", "\\x1b(B", "\\u001b[H", "\\033[u", "\\e[K", "\\u001b[?7l"),
    *("\x1b[?25h", "\x1b[?1049h", "\x1b(B", "\x1bM", "\x1b[s"),
    *("%2525C3%2525A9", "%2525250A", quote(quote("%0D%0A")), quote(quote(quote("é"))), "%u00e9", "\\U000000e9"),
)  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES_OF_S)
def test_key_with_an_escaped_character_is_redacted(escape: str) -> None:
    assert redact(f"a {escape}{KEY[1:]} b") == "a [redacted] b"
    assert redact(f"a {escape}k-a1B2c3D4e5F6 b") == "a [redacted] b"
    hyphen = escape.replace("163", "055").replace("115", "45").replace("73", "2d")
    assert redact(f"a {KEY.replace('s', escape).replace('-p', hyphen + 'p')} b") == "a [redacted] b"


@pytest.mark.parametrize("before", ESCAPES_BEFORE)
@pytest.mark.parametrize("key", ["sk-a1B2c3D4e5F6", *KEYS[2:4], "hf_" + "e" * 34, "sk\\u002da1B2c3D4e5F6"])
def test_key_is_redacted_after_an_escape_that_ends_in_a_letter_or_digit(before: str, key: str) -> None:
    assert key[-8:] not in redact(f"a{before}{key} b")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("sk-words-Bearer a1B2c3D4", "[redacted]"),
        ("sk-words-Bearer%20a1B2c3D4", "[redacted]"),
        ("sk-12345678-BEARER a1B2c3D4 b", "[redacted] b"),
        ("bearer x-bearer a1B2c3D4 b", "[redacted] b"),
        ("Bearer x-Bearer y-Bearer a1B2c3D4 b", "[redacted] b"),
        (f"sk-words-AKIA{'A' * 16} b", "[redacted] b"),
        (f"sk-words-ghp_{'c' * 36} b", "[redacted] b"),
    ],
)
def test_key_is_redacted_behind_text_that_resembles_a_key(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_key_is_redacted_after_any_character_in_every_representation(representation: str) -> None:
    write = REPRESENTATIONS[representation]
    texts = [(write(before + key + after), key[-8:]) for before in BEFORE for key in KEYS for after in ("", '", ')]

    left = [text for text, end in texts if end in redact(text) or write(end) in redact(text)]

    assert left == []


@pytest.mark.parametrize("key", [KEY + "x" * 20, "ghp_" + "c" * 36, "xoxb-123456789012", "agl-runner-" + "a" * 40])
def test_unmistakable_key_is_redacted_after_letters_and_digits(key: str) -> None:
    assert redact(f"api{key}, 1{key}") == "api[redacted], 1[redacted]"


@pytest.mark.parametrize(
    "text",
    ["task-force one", "risk-assessment-2024-final", "123e4567-e89b-12d3-a456-426614174000", "agl-proxy", "a" * 500,
     "task-123e4567-e89b-12d3-a456-426614174000", "task-3f2504e04f8911d39a0c0305e82c3301", "AKIA is a prefix", "sk-",
     "gen_ai_prompt_template_of_the_longest_kind_there_is", "sk-learn-pipelines", "the bearer of news",
     "boxy-xoxo-1234", "C:\\task-12345678", "https://x.y/disk-usage-2024%2Fdesk-12345678", "[desk-12345678]",
     "?id=desk-12345678&size=50", "&ask-12345678", "Tom &amp; ask-12345678", "a%20risk-12345678 \\u0041",
     "x=3Dtask-12345678", "dGFzay1zay1hYmNkZWZnaDEyMzQ1Njc4OTA=41", "sk-learn-the-bearer", "sk-words-AKIB",
     "C:\\123\\task-12345678",
     "&#39;task-12345678&#39;", "a&amp;#39;risk-12345678", "%5Cutask-12345678", "sha256:73e1f9k-12345678"],
)  # fmt: skip
def test_other_text_is_not_redacted(text: str) -> None:
    assert redact(text) == text


def test_redacted_json_is_valid_and_otherwise_unchanged() -> None:
    value = {"a": f"é\n{KEY}\n", "b": json.dumps(["\\", f"\t{KEY}", "%41\\u0041"]), "c": [f"\\{KEY}"]}
    without_keys = json.loads(json.dumps(value).replace(KEY, "[redacted]"))

    assert json.loads(redact(json.dumps(value))) == without_keys
    assert json.loads(redact(json.dumps(value).replace("-", "\\u002d"))) == without_keys


def test_key_is_redacted_at_every_position_of_a_long_text() -> None:
    keys = random.Random(1).choices(KEYS, k=2_000)
    texts = [" ".join(keys), "".join(f"\\n{key}é{' ' * (number % 97)}" for number, key in enumerate(keys))]

    left = [key for text in texts for key in KEYS if key[-8:] in redact(text)]

    assert left == []
    assert redact(" ".join(keys)) == " ".join(["[redacted]"] * 2_000)


@pytest.mark.parametrize(
    "unit",
    ["sk-", "-sk-", "xsk-", "sk-1 ", "bearer ", "bearer+", "bearer\\", "AKIA", "AIza", "ghp_", "github_pat_", "hf_",
     "-hf_", "xoxb-", "agl-attempt-", "task-1 ", "[0mhf_", "\\", "\\u00", "\\u0073", "%25", "%2541", "&#115;", "é",
     "&amp;", "&amp;amp;#", "&#0", "=73", "\\163", "%5C", "%5Cu0073", "sk-words-", "bearer x-bearer ",
     "sk-words-Bearer "],
)  # fmt: skip
def test_time_is_linear_in_the_text(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * (size // len(unit))).encode()
        start = time.thread_time()
        redact_bytes(text)
        return time.thread_time() - start

    small, large = min(seconds(32_000) for _ in range(3)), seconds(640_000)

    assert large < 60 * small + 0.1
    assert large < 1.5


def test_other_threads_run_while_a_long_text_is_searched() -> None:
    text = b"-sk-" * 2_000_000 + b"\\u0073k-" * 100_000
    searching = threading.Thread(target=redact_bytes, args=(text,))
    turns = 0

    searching.start()
    while searching.is_alive():
        searching.join(0.0005)
        turns += 1

    assert turns > 10


async def test_stored_spans_are_redacted() -> None:
    async with InMemoryLightningStore() as store:
        attempted = await claimed(store)

        await store.add_span(span(attempted, attributes={"headers": f"Bearer {KEY}", "list": ["a", KEY], "n": 1}))

        (stored,) = await store.query_spans(attempted.rollout_id)
        assert stored.attributes == {"headers": "[redacted]", "list": ["a", "[redacted]"], "n": 1}


def test_redaction_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_KEEP_KEYS", "1")

    assert redact_bytes(KEY.encode()) == KEY.encode()


def test_replayed_request_matches_its_redacted_recording() -> None:
    request = {"messages": [{"role": "user", "content": f"é\n{KEY}\t'{KEY}'"}], "tools": [json.dumps([f"\n{KEY}"])]}
    recorded = json.loads(redact(json.dumps(request, ensure_ascii=False)))
    cassette = Cassette([RecordedCall("chat/completions", recorded, {"id": "1"})])

    assert KEY not in str(recorded)
    assert cassette.response_to("chat/completions", request) == {"id": "1"}


def test_reason_and_traceback_of_a_failed_attempt_are_redacted() -> None:
    try:
        raise ValueError(f"{'x ' * 988}bad key {KEY}")
    except ValueError as error:
        metadata = outcome_of_error(error).metadata

    assert metadata["reason"].endswith("bad key [red")
    assert "bad key [redacted]" in metadata["traceback"]
    assert KEY[-8:] not in str(metadata)


def test_words_at_the_ends_of_slices_are_not_redacted() -> None:
    text = "".join(f"x{'y' * (number % 7)}task-12345678 " for number in range(20_000))

    assert redact(text + KEY) == text + "[redacted]"
