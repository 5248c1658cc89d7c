"""Rows of import and export files."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.cli import rows
from shoal.cli.rows import BadLine, Row, encode_file_row, encode_row, read_csv, read_json_lines


def json_lines(text: str) -> list[Row | BadLine]:
    return list(read_json_lines(io.BytesIO(text.encode())))


def csv_rows(text: str | bytes) -> list[Row | BadLine]:
    return list(read_csv(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_what_is_exported_reads_back_byte_for_byte(pairs):
    stream = io.BytesIO(b"".join(encode_row(key, value) for key, value in pairs))
    assert [(row.key, row.value) for row in read_json_lines(stream)] == pairs


def test_text_stays_readable_in_json_lines():
    assert encode_row("ключ".encode(), b"v") == '{"key":"ключ","value":"v"}\n'.encode()
    assert encode_row(b"k", b"\xff") == b'{"key":"k","value_base64":"/w=="}\n'


def test_blank_lines_count_and_are_passed_over():
    assert json_lines('\n{"key":"a","value":""}\n\n') == [Row(2, b"a", b"")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"key":"a"}', "neither"),
        ('{"key":"a","value":"x","value_base64":"eA=="}', "both"),
        ('{"key":"","value":"x"}', "empty"),
        ('{"key":"a","value":1}', "str"),
        ('{"key":"a","value":"x","valeu":"y"}', "valeu"),
        ('{"key":"a","value_base64":"!"}', "value_base64"),
        ('{"key":"a","value":"x","expires_at":"soon"}', "Unix time"),
        ('{"key":"a","value":"x","expires_at":-1}', "Unix time"),
        ('{"key":"a","value":"x","expires_at":1e300}', "Unix time"),
        ('{"key":"a","value":"x","ttl":-1}', "ttl"),
        ('{"key":"a","value":"x","ttl":"never"}', "never"),
        ('{"key":"a","value":"x","ttl":1,"expires_at":1}', "not both"),
        ('{"key":"a",', "JSON"),
        ("[1]", "object"),
    ],
)
def test_a_wrong_json_line_is_named_with_its_number_and_the_next_is_read(line, reason):
    bad, good = json_lines(f'{line}\n{{"key":"b","value":"y"}}')
    assert isinstance(bad, BadLine)
    assert bad.line == 1
    assert reason.lower() in bad.reason.lower()
    assert good == Row(2, b"b", b"y")


def test_bytes_that_are_no_utf8_in_json_lines_are_a_bad_line():
    (bad,) = read_json_lines(io.BytesIO(b'{"key":"\xff","value":""}\n'))
    assert isinstance(bad, BadLine)


def test_a_line_that_is_too_long_is_refused_and_the_next_is_read(monkeypatch):
    monkeypatch.setattr(rows, "LINE_BYTES_MAX", 40)
    text = '{"key":"a","value":"' + "x" * 200 + '"}\n{"key":"b","value":"y"}\n'
    bad, good = json_lines(text)
    assert isinstance(bad, BadLine)
    assert good == Row(2, b"b", b"y")


def test_csv_takes_its_columns_in_any_order_and_quoted_newlines():
    found = csv_rows('\ufeffvalue,key\r\n"two\nlines",a\r\nx,b\r\n')
    assert found == [Row(2, b"a", b"two\nlines"), Row(4, b"b", b"x")]


def test_a_row_that_never_expires_says_so_where_others_would_by_default():
    assert encode_file_row(b"k", b"v", 0, may_say_never=True) == b'{"key":"k","value":"v","ttl":0}\n'
    assert encode_file_row(b"k", b"v", 0, may_say_never=False) == b'{"key":"k","value":"v"}\n'
    assert encode_file_row(b"k", b"v", 1_500, may_say_never=True) == b'{"key":"k","value":"v","expires_at":1.5}\n'


def test_csv_rows_may_say_when_they_expire():
    found = csv_rows("key,value,expires_at,ttl\na,x,1798761600.5,\nb,y,,1m\nc,z,,\nd,z,nan,\n")
    assert found[:3] == [Row(2, b"a", b"x", 1798761600.5), Row(3, b"b", b"y", None, 60.0), Row(4, b"c", b"z")]
    assert isinstance(found[3], BadLine)


def test_csv_takes_base64_where_that_cell_is_filled():
    found = csv_rows("key,value,value_base64\na,text,\nb,,/w==\n")
    assert found == [Row(2, b"a", b"text"), Row(3, b"b", b"\xff")]


@pytest.mark.parametrize(
    ("header", "reason"),
    [("key,valeu", "valeu"), ("key", "'value'"), ("value", "'key'"), ("key,value,key", "twice")],
)
def test_a_wrong_csv_header_is_one_bad_line_and_nothing_is_read(header, reason):
    (bad,) = csv_rows(f"{header}\na,b\n")
    assert isinstance(bad, BadLine)
    assert bad.line == 1
    assert reason in bad.reason


def test_wrong_csv_rows_are_named_with_their_number_and_the_next_is_read():
    found = csv_rows(b"key,value\na\n\xff,x\n,x\nb,y\n")
    assert [(type(row), row.line) for row in found] == [(BadLine, 2), (BadLine, 3), (BadLine, 4), (Row, 5)]


def test_an_unfinished_quote_in_csv_is_a_bad_line():
    found = csv_rows('key,value\na,b\nc,"d\n')
    assert [(type(row), row.line) for row in found] == [(Row, 2), (BadLine, 3)]
