"""UIDs: the same for the same, different for the different, and of the form that DICOM allows."""

import hashlib
import json
import re

import pytest

from lampyris.dicom.ids import IMPLEMENTATION_CLASS_UID, series_ids, uid
from lampyris.model import InputError


def test_a_uid_is_a_uuid_made_of_the_digest():
    digest = bytearray(
        hashlib.sha256(json.dumps(["lampyris", "scan", "影"], ensure_ascii=False).encode()).digest()[:16]
    )
    digest[6] = digest[6] & 0x0F | 0x50  # RFC 4122: version 5 in the high bits of octet 6
    digest[8] = digest[8] & 0x3F | 0x80  # and the variant in those of octet 8
    assert uid("scan", "影") == f"2.25.{int.from_bytes(digest, 'big')}"


def test_uids_have_no_leading_zero_and_at_most_64_characters():
    for number in range(200):
        assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid("scan", str(number)))


def test_where_one_part_ends_matters():
    assert len({uid("ab", "c"), uid("a", "bc"), uid("abc"), uid("abc", "")}) == 4


def test_the_implementation_uid_is_derived_like_all_others():
    assert uid("lampyris", "implementation") == IMPLEMENTATION_CLASS_UID


def test_same_scan_and_recipe_give_the_same_series_and_instances():
    first, again = series_ids("scan", "digest", "ct"), series_ids("scan", "digest", "ct")
    assert first == again
    assert [first.instance(n) for n in (1, 2)] == [again.instance(n) for n in (1, 2)]
    assert first.instance(1) != first.instance(2)


def test_another_recipe_or_role_is_another_series_of_the_same_study_and_frame_of_reference():
    one = series_ids("scan", "digest", "ct")
    for other in (series_ids("scan", "other", "ct"), series_ids("scan", "digest", "enhanced")):
        assert other.series != one.series
        assert other.instance(1) != one.instance(1)
        assert (other.study, other.frame_of_reference) == (one.study, one.frame_of_reference)


def test_another_scan_shares_nothing():
    one, other = series_ids("scan", "digest", "ct"), series_ids("another", "digest", "ct")
    assert {one.study, one.series, one.frame_of_reference}.isdisjoint(
        {other.study, other.series, other.frame_of_reference}
    )


def test_known_study_and_frame_of_reference_are_kept():
    ids = series_ids("scan", "digest", "ct", study="1.2.3", frame_of_reference="1.2.4")
    assert (ids.study, ids.frame_of_reference) == ("1.2.3", "1.2.4")


def test_a_scan_without_id_is_refused():
    with pytest.raises(InputError, match="no id"):
        series_ids("", "digest", "ct")
