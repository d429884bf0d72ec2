"""Who is let in by the centre's DICOM node, and what a bad peer may cost it."""

import pytest
from centre_node import answering, know, tool

pytestmark = pytest.mark.judge


@pytest.fixture
def port(settings, invite, program):
    program("echoscu")
    invite("st-anna")
    with answering(settings) as found:
        yield found


def echo(port, calling="CT1", called="LAMPYRIS"):
    return tool("echoscu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", port, check=False)


def test_a_known_node_is_answered(port, settings):
    know(settings, "CT1")
    assert echo(port).returncode == 0


def test_an_unknown_title_is_refused_and_it_is_written_down(port, settings, rows):
    know(settings, "CT1")
    found = echo(port, calling="CT2")
    assert "Calling AE Title Not Recognized" in found.stdout + found.stderr
    assert rows("SELECT kind, who, outcome FROM audit ORDER BY number DESC LIMIT 1") == [("login", "node:?", "refused")]


def test_a_known_title_from_another_address_is_refused(port, settings):
    know(settings, "CT1", host="127.0.0.2")
    found = echo(port)
    assert "Calling AE Title Not Recognized" in found.stdout + found.stderr


def test_another_called_title_is_refused(port, settings):
    know(settings, "CT1")
    found = echo(port, called="OTHER")
    assert "Called AE Title Not Recognized" in found.stdout + found.stderr


def test_a_node_of_a_suspended_site_is_refused(port, settings, rows):
    know(settings, "CT1")
    rows("UPDATE site SET suspended = true")
    assert echo(port).returncode != 0
