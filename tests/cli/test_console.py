"""Tables in a terminal of 80 columns keep names whole and figures readable."""

from __future__ import annotations

import pytest

from edgedeploy.cli.console import Reporter, print_error, print_next, print_table
from edgedeploy.core.errors import UsageError

NAME = "ddrnet_23_slim.int8.cpu.onnx"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_names_stay_whole_and_the_rest_folds(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("model", "why", "what"), [(NAME, "because " * 12, "do " * 30)])
    out = capsys.readouterr().out
    assert NAME in out
    assert out.count("because") == 12
    assert max(map(len, out.splitlines())) <= 80


def test_what_can_be_spared_goes_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    columns = ("model", "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd")
    rows = [(NAME, "11", "22", "33", "44")]
    print_table(columns, rows, dispensable=("cccccccccc", "aaaaaaaaaa", "bbbbbbbbbb"))
    out = capsys.readouterr().out
    assert NAME in out
    assert [name in out for name in columns[1:]] == [True, True, False, True]
    assert [figure in out for figure in rows[0][1:]] == [True, True, False, True]


def test_a_very_long_name_folds_and_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 200
    print_table(("model", "p50 ms"), [(name, "12.5")])
    out = capsys.readouterr().out
    assert out.count("x") == 200
    assert "12.5" in out


def test_names_cannot_steer_the_terminal_and_words_stay(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07\x1b[31mred\x9b2J [bold] net:two:smile:"
    print_error(UsageError(hostile, hostile))
    print_next(hostile)
    print_table(("name",), [(hostile,)], title=hostile)
    Reporter().note(hostile)
    printed = "".join(capsys.readouterr())
    assert not set(printed) & {chr(code) for code in (7, 27, 0x9B)}
    assert printed.count(r"\x1b]0;title\x07\x1b[31mred") >= 5
    assert printed.count("[bold] net:two:smile:") >= 5
