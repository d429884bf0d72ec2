-- Doses of CT irradiations, read from dose reports. They outlive the images, and no row says whose they are.

CREATE TABLE dose (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site        text COLLATE "C" NOT NULL REFERENCES site ON DELETE CASCADE,
    event       text NOT NULL,
    report      text NOT NULL,
    study_uid   text NOT NULL,
    scan        bigint REFERENCES scan ON DELETE SET NULL,
    patient     text,
    at          timestamptz NOT NULL,
    scanner     text NOT NULL DEFAULT '',
    examination text COLLATE "C" NOT NULL DEFAULT '',
    protocol    text COLLATE "C" NOT NULL DEFAULT '',
    age_class   text COLLATE "C" NOT NULL DEFAULT '',
    ctdivol     double precision,
    phantom_mm  double precision,
    dlp         double precision,
    ssde        double precision,
    size_mm     double precision,
    scanned_mm  double precision,
    voltage_kv  double precision,
    source      text NOT NULL DEFAULT '',
    level       double precision,
    repeat_of   bigint REFERENCES dose ON DELETE SET NULL,
    told_in     bigint REFERENCES dose ON DELETE SET NULL,
    UNIQUE (site, event)
);
COMMENT ON COLUMN dose.event IS 'Irradiation Event UID';
COMMENT ON COLUMN dose.report IS 'SOP Instance UID of the dose report';
COMMENT ON COLUMN dose.patient IS 'digest of site, issuer and PatientID: tells repeats, and nobody';
COMMENT ON COLUMN dose.examination IS 'a key of reference_levels.json, empty where the region is none of them';
COMMENT ON COLUMN dose.level IS 'part of the dose of its protocol that the scan stands for, where our report says so';
COMMENT ON COLUMN dose.repeat_of IS 'an earlier irradiation of the same body part within a day, of another study';
COMMENT ON COLUMN dose.told_in IS 'our own row of the same irradiation; it counts, and this one, of the scanner''s report, does not';
CREATE INDEX dose_grouped ON dose (examination, protocol, site) INCLUDE (at, age_class, ctdivol, dlp, ssde) WHERE told_in IS NULL;
CREATE INDEX dose_at ON dose (site, at);
CREATE INDEX dose_patient ON dose (patient, examination, at) WHERE patient IS NOT NULL;
CREATE INDEX dose_repeat ON dose (at) WHERE repeat_of IS NOT NULL;
CREATE INDEX dose_study ON dose (site, study_uid);
CREATE UNIQUE INDEX dose_told ON dose (told_in) WHERE told_in IS NOT NULL;
CREATE INDEX dose_scan ON dose (scan) WHERE scan IS NOT NULL;
CREATE INDEX dose_repeated ON dose (repeat_of) WHERE repeat_of IS NOT NULL;
