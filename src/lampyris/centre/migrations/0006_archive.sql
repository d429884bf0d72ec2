-- The index of DICOM objects: QIDO and every page ask it, never the files. The files lie in the store.

CREATE TABLE study (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site                text NOT NULL REFERENCES site,
    uid                 text NOT NULL,
    patient_id          text NOT NULL DEFAULT '',
    issuer              text NOT NULL DEFAULT '',
    patient_name        text NOT NULL DEFAULT '',
    birth_date          text NOT NULL DEFAULT '',
    sex                 text NOT NULL DEFAULT '',
    study_date          text NOT NULL DEFAULT '',
    study_time          text NOT NULL DEFAULT '',
    accession           text NOT NULL DEFAULT '',
    study_id            text NOT NULL DEFAULT '',
    description         text NOT NULL DEFAULT '',
    referring           text NOT NULL DEFAULT '',
    modalities          text[] NOT NULL DEFAULT '{}',
    series_count        integer NOT NULL DEFAULT 0,
    instance_count      integer NOT NULL DEFAULT 0,
    bytes               bigint NOT NULL DEFAULT 0,
    json                jsonb NOT NULL,
    created             timestamptz NOT NULL DEFAULT now(),
    updated             timestamptz NOT NULL DEFAULT now(),
    UNIQUE (site, uid)
);
COMMENT ON COLUMN study.json IS 'DICOM JSON of patient and study level, as QIDO gives it';

CREATE TABLE series (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    scan                bigint REFERENCES scan ON DELETE SET NULL,
    uid                 text NOT NULL,
    modality            text NOT NULL DEFAULT '',
    series_number       integer,
    description         text NOT NULL DEFAULT '',
    body_part           text NOT NULL DEFAULT '',
    recipe              text,
    role                text NOT NULL DEFAULT 'image',
    instance_count      integer NOT NULL DEFAULT 0,
    json                jsonb NOT NULL,
    created             timestamptz NOT NULL DEFAULT now(),
    UNIQUE (study, uid)
);
COMMENT ON COLUMN series.role IS 'image, noise, bias, dose, report, or other: what it is in our own results';
CREATE INDEX series_scan ON series (scan) WHERE scan IS NOT NULL;

CREATE TABLE instance (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    series              bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    uid                 text NOT NULL,
    class_uid           text NOT NULL,
    syntax_uid          text NOT NULL,
    instance_number     integer,
    frames              integer NOT NULL DEFAULT 1,
    key                 text NOT NULL,
    bytes               bigint NOT NULL,
    sha256              text NOT NULL,
    json                jsonb NOT NULL,
    UNIQUE (series, uid)
);
COMMENT ON COLUMN instance.key IS 'place of the file in the store';
COMMENT ON COLUMN instance.json IS 'all of its metadata in DICOM JSON, bulk data left out';

-- A study, or one series of it, that another tenant may see: a referral to an expert hospital.
CREATE TABLE shared (
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    series              bigint REFERENCES series ON DELETE CASCADE,
    tenant              text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    until               timestamptz,
    at                  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX shared_once ON shared (study, coalesce(series, 0), tenant);

-- A study that somebody opened without a right to it, in an emergency.
CREATE TABLE glass (
    person              bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    reason              text NOT NULL,
    at                  timestamptz NOT NULL DEFAULT now(),
    until               timestamptz NOT NULL
);
CREATE INDEX glass_person ON glass (person, until);
