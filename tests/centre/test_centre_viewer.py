"""The reading viewer: a published build that is laid down below our own path, and served to those who may read."""

import dataclasses
import gzip
import json
import re

import pytest
from centre_console import PAGE

from lampyris.centre import Settings
from lampyris.centre.viewer import page, prepare, release_of
from lampyris.cli.main import main
from lampyris.model import InputError

APPLICATION = """\
pluginImports_modes.push("@ohif/mode-longitudinal");
const first = voiLutModule.voiLUTFunction[0]);
__webpack_require__.p = "/";
"""
STUDY = {"StudyInstanceUIDs": "2.25.7"}


@pytest.fixture
def package(tmp_path):
    """A package that is built as @ohif/app is, as small as can be."""
    dist = tmp_path / "app" / "dist"
    (dist / "ort").mkdir(parents=True)
    (dist.parent / "package.json").write_text(json.dumps({"name": "@ohif/app", "version": "9.8.7"}))
    (dist / "app.bundle.0af.js").write_text(APPLICATION)
    (dist / "12.bundle.77.js").write_text('__webpack_require__.p = "/";')
    (dist / "app.bundle.css").write_text("a { src: url(/face.woff2); b: url(data:x) }")
    (dist / "face.woff2").write_bytes(b"wOF2\0")
    (dist / "ort" / "ort.js").write_text("never asked for")
    (dist / "sw.js").write_text("importScripts('https://elsewhere.example')")
    return dist.parent


@pytest.fixture
def installed(package, settings):
    return prepare(package, settings.viewer_folder)


def test_all_that_the_build_asks_for_is_below_its_own_path(package, tmp_path):
    release = prepare(package, tmp_path / "viewer")
    assert re.fullmatch(r"/viewer/files/9\.8\.7-[0-9a-f]{12}/", release.root)
    application = (tmp_path / "viewer" / release.script).read_text()
    assert f'__webpack_require__.p = "{release.root}";' in application
    assert "@ohif/mode" not in application
    assert "[voiLutModule.voiLUTFunction].flat()[0])" in application
    style = (tmp_path / "viewer" / "app.bundle.css").read_text()
    assert f"url({release.root}face.woff2)" in style
    assert "url(data:x)" in style
    assert sorted(release.files) == ["12.bundle.77.js", "app.bundle.0af.js", "app.bundle.css", "face.woff2"]
    assert gzip.decompress((tmp_path / "viewer" / f"{release.script}.gz").read_bytes()).decode() == application


def test_the_same_package_changes_nothing_and_another_one_has_another_path(package, tmp_path):
    first = prepare(package, tmp_path / "viewer")
    before = (tmp_path / "viewer" / "release.json").stat().st_mtime_ns
    assert prepare(package, tmp_path / "viewer") == first == release_of(tmp_path / "viewer")
    assert (tmp_path / "viewer" / "release.json").stat().st_mtime_ns == before
    (package / "dist" / "face.woff2").write_bytes(b"wOF2\1")
    assert prepare(package, tmp_path / "viewer").root != first.root


@pytest.mark.parametrize("line", APPLICATION.splitlines())
def test_a_build_of_another_kind_is_refused_and_the_old_one_stays(package, tmp_path, line):
    first = prepare(package, tmp_path / "viewer")
    script = package / "dist" / first.script
    script.write_text(APPLICATION.replace(line, ""))
    with pytest.raises(InputError, match="expected"):
        prepare(package, tmp_path / "viewer")
    assert release_of(tmp_path / "viewer") == first


def test_another_package_is_refused(package, tmp_path):
    (package / "package.json").write_text('{"name": "left-pad", "version": "1"}')
    with pytest.raises(InputError, match="left-pad"):
        prepare(package, tmp_path / "viewer")
    with pytest.raises(InputError, match=r"no package\.json"):
        prepare(tmp_path, tmp_path / "viewer")


def test_the_operator_installs_it_by_command(package, tmp_path, capsys):
    assert main(["centre", "viewer", str(package), "--data", str(tmp_path / "data")]) == 0
    assert release_of(tmp_path / "data" / "viewer") is not None


def test_settings_travel_with_their_folders(tmp_path):
    for viewer in (None, tmp_path / "elsewhere"):
        settings = Settings(tmp_path, viewer=viewer)
        assert Settings.from_json(settings.to_json()) == settings
    assert dataclasses.replace(settings, viewer=None).viewer_folder == tmp_path / "viewer"


def test_where_it_is_not_installed_the_page_says_how(signed_in):
    answer = signed_in(("radiologist", "centre")).get("/viewer/read", params=STUDY, headers=PAGE)
    assert answer.status_code == 503
    assert "npm ci" in answer.text


def test_it_is_for_those_who_may_read_studies(installed, signed_in, client):
    stranger = client.get("/viewer/read", params=STUDY, headers=PAGE, follow_redirects=False)
    assert (stranger.status_code, stranger.headers["location"]) == (
        303, "/sign-in?next=%2Fviewer%2Fread%3FStudyInstanceUIDs%3D2.25.7")  # fmt: skip
    assert signed_in(("operator", "centre")).get("/viewer/read", params=STUDY).status_code == 403
    reader = signed_in(("radiologist", "centre"))
    found = reader.get("/viewer/read", params=STUDY, headers=PAGE)
    assert found.status_code == 200
    assert installed.root + installed.script in found.text
    assert reader.headers["X-CSRF-Token"] in found.text
    assert found.headers["content-security-policy"] == page.POLICY
    assert found.headers["cross-origin-embedder-policy"] == "require-corp"
    led = reader.get("/viewer", headers=PAGE, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, "/")


def test_it_speaks_the_language_of_the_account(installed, signed_in, rows):
    reader = signed_in(("radiologist", "centre"), login="li")
    rows("UPDATE person SET language = 'zh_CN' WHERE login = 'li'")
    found = reader.get("/viewer/read", params=STUDY, headers=PAGE)
    assert 'data-viewer-language="zh"' in found.text
    assert "肺窗" in json.loads(re.search(r'data-words="([^"]*)"', found.text)[1].replace("&#34;", '"'))["lung"]


def test_no_page_of_it_may_ask_another_origin_or_run_a_script_of_its_own(installed, signed_in):
    assert "http" not in page.POLICY
    text = signed_in(("radiologist", "centre")).get("/viewer/read", params=STUDY, headers=PAGE).text
    assert not re.search(r"<script(?![^>]*\bsrc=\"/)", text)
    assert not re.search(r"\b(?:src|href)=\"(?!/)", text)


def test_its_files_are_kept_for_a_year_under_their_release_alone(installed, client):
    place = installed.root + "app.bundle.css"
    found = client.get(place)
    assert found.headers["content-encoding"] == "gzip"
    assert found.headers["content-type"].startswith("text/css")
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["content-security-policy"] == page.POLICY, "a worker has that of its file"
    plain = client.get(place, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == found.text
    assert client.get(place.replace("9.8.7", "9.8.6")).status_code == 404
    for name in ("release.json", "../viewer/release.json", "%2e%2e/app.bundle.css", "app.bundle.css.gz", "sw.js"):
        assert client.get(installed.root + name).status_code == 404, name
