"""dicomweb-client, an independent reader of PS3.18, searches, retrieves and stores at our DICOMweb."""

import io
from urllib.parse import urljoin, urlsplit

import numpy as np
import pydicom
import pytest
from centre_dicom import dataset, encoded, pixels
from PIL import Image

from lampyris.dicom.ids import uid

pytestmark = pytest.mark.judge
NAMES = ("Zhang^San=张^三", "=𠮷^田", "㐀^誠")


@pytest.fixture
def judge(package, reader_token, client):
    package("dicomweb_client")
    import requests
    from dicomweb_client.api import DICOMwebClient

    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {reader_token}"
    yield DICOMwebClient(url=str(client.base_url.join("/dicomweb")), session=session)
    session.close()


def fetched(judge):
    """What follows a BulkDataURI; the client names our host without its port, so that ours does not name it either."""
    return lambda _tag, _vr, address: bytes(judge.retrieve_bulkdata(urljoin(judge.base_url, urlsplit(address).path))[0])


def test_what_it_stores_it_finds_and_gets_back(judge):
    made = [dataset(f"s{number}", "lung", PatientName=name) for number, name in enumerate(NAMES)]
    answer = judge.store_instances(made)
    assert len(answer.ReferencedSOPSequence) == len(NAMES)
    assert len(judge.search_for_studies()) == len(NAMES)
    assert judge.search_for_studies(search_filters={"PatientName": "nobody"}) == []
    for one, name in zip(made, NAMES, strict=True):
        (found,) = judge.search_for_studies(search_filters={"PatientName": name}, fields=["StudyDescription"])
        assert pydicom.Dataset.from_json(found).PatientName == name
        ids = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)
        (series,) = judge.search_for_series(ids[0])
        assert series["0020000E"]["Value"] == [ids[1]]
        assert len(judge.search_for_instances(*ids[:2])) == 1
        (whole,) = judge.retrieve_study(ids[0])
        assert encoded(whole) == encoded(one)
        assert encoded(judge.retrieve_instance(*ids)) == encoded(one)
        metadata = pydicom.Dataset.from_json(judge.retrieve_instance_metadata(*ids), fetched(judge))
        assert metadata.PatientName == name
        assert metadata.PixelData == pixels().tobytes()
        plain = (("application/octet-stream", "1.2.840.10008.1.2.1"),)
        for chosen in (None, plain):
            (frame,) = judge.retrieve_instance_frames(*ids, frame_numbers=[1], media_types=chosen)
            assert frame == pixels().tobytes()


def test_pictures_and_pages(judge):
    judge.store_instances([dataset("a", "lung", number) for number in (1, 2, 3)])
    picture = judge.retrieve_instance_rendered(
        uid("a"),
        uid("a", "lung"),
        uid("a", "lung", "1"),
        media_types=("image/png",),
        params={"window": "40,400,linear"},
    )
    assert np.asarray(Image.open(io.BytesIO(picture))).shape == pixels().shape
    assert len(judge.search_for_instances(uid("a"), limit=2)) == 2
    assert len(judge.search_for_instances(uid("a"), limit=2, get_remaining=True)) == 3
    assert [one.InstanceNumber for one in judge.retrieve_series(uid("a"), uid("a", "lung"))] == [1, 2, 3]
