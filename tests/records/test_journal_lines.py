"""A journal's lines: what is written is read, and what is damaged is never taken for a result."""

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codi_lens.records.journal_lines import decode, encode
from codi_lens.records.read import RecordError

PATH = Path("run/journal.jsonl")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


ENTRIES = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), min_size=1, max_size=5)


def bits(value):
    return struct.pack("d", value)


@given(ENTRIES)
def test_what_is_written_is_read(entries):
    content = b"".join(map(encode, entries))
    assert decode(content, PATH) == (entries, len(content))
    assert content.count(b"\n") == len(entries)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_to_the_last_bit(value):
    (entry,), _ = decode(encode({"value": value}), PATH)
    assert bits(entry["value"]) == bits(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_no_spelling_for_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"value": value})


@given(ENTRIES, st.data())
def test_a_journal_cut_anywhere_holds_what_was_whole(entries, data):
    lines = list(map(encode, entries))
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    kept, length = decode(content[:cut], PATH)
    whole = sum(1 for i in range(len(lines)) if len(b"".join(lines[: i + 1])) <= cut)
    assert kept == entries[:whole]
    assert length == len(b"".join(lines[:whole]))


@given(ENTRIES, st.data())
def test_a_changed_byte_is_never_taken_for_a_result(entries, data):
    content = bytearray(b"".join(map(encode, entries)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    try:
        kept, _ = decode(bytes(content), PATH)
    except RecordError:
        return
    # A change of blanks, or what passes for a torn last line: two of them where the break between went.
    assert kept in (entries, entries[:-1], entries[:-2])


def test_a_damaged_earlier_line_is_named():
    lines = [encode({"schema_version": 2, "n": n}) for n in range(4)]
    lines[2] = lines[2].replace(b'"n": 2', b'"n": 3')
    with pytest.raises(RecordError, match=r"run/journal.jsonl, line 3 is damaged"):
        decode(b"".join(lines), PATH)
    lines[3] = lines[3][:-5]  # a torn line behind it does not make it a last one
    with pytest.raises(RecordError, match="line 3 is damaged"):
        decode(b"".join(lines), PATH)


def test_a_line_with_a_key_twice_is_damaged_though_its_checksum_is_right():
    first, second = encode({"pair": 7}), encode({"pair": 2})
    doubled = first.replace(b'"pair": 7', b'"pair": 3, "pair": 7')
    with pytest.raises(RecordError, match="line 1 is damaged"):
        decode(doubled + second, PATH)
