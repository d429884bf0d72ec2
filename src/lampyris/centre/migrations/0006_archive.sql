-- The index of DICOM objects: QIDO and every page ask it, never the files. The files lie in the store.

CREATE TABLE study (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site                text NOT NULL REFERENCES site,
    uid                 text COLLATE "C" NOT NULL,
    patient_id          text COLLATE "C" NOT NULL DEFAULT '',
    issuer              text COLLATE "C" NOT NULL DEFAULT '',
    patient_name        text COLLATE "C" NOT NULL DEFAULT '',
    patient_keys        text[] COLLATE "C" NOT NULL DEFAULT '{}',
    birth_date          text COLLATE "C" NOT NULL DEFAULT '',
    sex                 text COLLATE "C" NOT NULL DEFAULT '',
    study_date          text COLLATE "C" NOT NULL DEFAULT '',
    study_time          text COLLATE "C" NOT NULL DEFAULT '',
    accession           text COLLATE "C" NOT NULL DEFAULT '',
    study_id            text COLLATE "C" NOT NULL DEFAULT '',
    description         text COLLATE "C" NOT NULL DEFAULT '',
    referring           text COLLATE "C" NOT NULL DEFAULT '',
    referring_keys      text[] COLLATE "C" NOT NULL DEFAULT '{}',
    modalities          text[] NOT NULL DEFAULT '{}',
    series_count        integer NOT NULL DEFAULT 0,
    instance_count      integer NOT NULL DEFAULT 0,
    bytes               bigint NOT NULL DEFAULT 0,
    json                jsonb NOT NULL,
    created             timestamptz NOT NULL DEFAULT now(),
    updated             timestamptz NOT NULL DEFAULT now(),
    UNIQUE (uid, site)
);
COMMENT ON COLUMN study.json IS 'DICOM JSON of patient and study level, as QIDO gives it; nothing empty in it';
COMMENT ON COLUMN study.patient_keys IS 'groups of the name (alphabetic, ideographic, phonetic), case folded: what is searched';
CREATE INDEX study_site ON study (site, study_date, number);
CREATE INDEX study_newest ON study (study_date, number);
CREATE INDEX study_patient ON study (patient_id);
CREATE INDEX study_accession ON study (accession);
CREATE INDEX study_alphabetic ON study ((patient_keys[1]));
CREATE INDEX study_ideographic ON study ((patient_keys[2])) WHERE patient_keys[2] IS NOT NULL;
CREATE INDEX study_phonetic ON study ((patient_keys[3])) WHERE patient_keys[3] IS NOT NULL;

CREATE TABLE series (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    scan                bigint REFERENCES scan ON DELETE SET NULL,
    uid                 text COLLATE "C" NOT NULL,
    modality            text COLLATE "C" NOT NULL DEFAULT '',
    series_number       integer,
    description         text COLLATE "C" NOT NULL DEFAULT '',
    body_part           text COLLATE "C" NOT NULL DEFAULT '',
    recipe              text,
    role                text NOT NULL DEFAULT 'image',
    instance_count      integer NOT NULL DEFAULT 0,
    json                jsonb NOT NULL,
    created             timestamptz NOT NULL DEFAULT now(),
    UNIQUE (study, uid)
);
COMMENT ON COLUMN series.role IS 'image, noise, bias, dose, report, or other: what it is in our own results';
COMMENT ON COLUMN series.json IS 'metadata of its first instance in DICOM JSON; what the others have in common with it is kept once';
CREATE INDEX series_uid ON series (uid);
CREATE INDEX series_scan ON series (scan) WHERE scan IS NOT NULL;

CREATE TABLE instance (
    number              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    study               bigint NOT NULL,
    series              bigint NOT NULL REFERENCES series ON DELETE CASCADE,
    uid                 text COLLATE "C" NOT NULL,
    class_uid           text COLLATE "C" NOT NULL,
    syntax_uid          text COLLATE "C" NOT NULL,
    instance_number     integer,
    frames              integer NOT NULL DEFAULT 1,
    prefix              text COLLATE "C" NOT NULL,
    bytes               bigint NOT NULL,
    sha256              text COLLATE "C" NOT NULL,
    content             text COLLATE "C" NOT NULL,
    pixel_at            bigint,
    pixel_bytes         bigint,
    own                 jsonb NOT NULL,
    UNIQUE (series, uid)
);
COMMENT ON COLUMN instance.prefix IS 'where the file lies in the store, under its sha256';
COMMENT ON COLUMN instance.content IS 'SHA-256 of what it says: metadata and pixels, whatever wrote the file around them';
COMMENT ON COLUMN instance.pixel_at IS 'first byte of its native pixel data in the file; null: none, or compressed';
COMMENT ON COLUMN instance.own IS 'what of its metadata differs from series.json; null: what it lacks';
CREATE INDEX instance_uid ON instance (uid);

-- Counts follow the instances, and what is empty goes, whoever adds or deletes.
CREATE FUNCTION archive_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE series SET instance_count = instance_count + more
    FROM (SELECT series AS one, count(*) AS more FROM changed GROUP BY series) AS fresh WHERE number = one;
    UPDATE study SET instance_count = instance_count + more, bytes = bytes + size, updated = now()
    FROM (SELECT study AS one, count(*) AS more, sum(changed.bytes) AS size FROM changed GROUP BY study) AS fresh
    WHERE number = one;
    RETURN NULL;
END $$;
CREATE TRIGGER archive_added AFTER INSERT ON instance REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION archive_added();

CREATE FUNCTION archive_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE study SET instance_count = instance_count - less, bytes = bytes - size, updated = now()
    FROM (SELECT study AS one, count(*) AS less, sum(changed.bytes) AS size FROM changed GROUP BY study) AS gone
    WHERE number = one;
    UPDATE series SET instance_count = instance_count - less
    FROM (SELECT series AS one, count(*) AS less FROM changed GROUP BY series) AS gone WHERE number = one;
    DELETE FROM series WHERE instance_count = 0 AND number IN (SELECT series FROM changed);
    RETURN NULL;
END $$;
CREATE TRIGGER archive_deleted AFTER DELETE ON instance REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION archive_deleted();

CREATE FUNCTION archive_series() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE study SET series_count = (SELECT count(*) FROM series WHERE series.study = study.number),
        modalities = (SELECT coalesce(array_agg(DISTINCT modality ORDER BY modality), '{}')
                      FROM series WHERE series.study = study.number AND modality <> '')
    WHERE number IN (SELECT study FROM changed);
    IF TG_OP = 'DELETE' THEN
        DELETE FROM study WHERE series_count = 0 AND number IN (SELECT study FROM changed);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER archive_series_added AFTER INSERT ON series REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION archive_series();
CREATE TRIGGER archive_series_deleted AFTER DELETE ON series REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION archive_series();

-- A study, or one series of it, that another tenant may see: a referral to an expert hospital.
CREATE TABLE shared (
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    series              bigint REFERENCES series ON DELETE CASCADE,
    tenant              text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    until               timestamptz,
    at                  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX shared_once ON shared (study, coalesce(series, 0), tenant);
CREATE INDEX shared_tenant ON shared (tenant);

-- A study that somebody opened without a right to it, in an emergency.
CREATE TABLE glass (
    person              bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    study               bigint NOT NULL REFERENCES study ON DELETE CASCADE,
    reason              text NOT NULL,
    at                  timestamptz NOT NULL DEFAULT now(),
    until               timestamptz NOT NULL
);
CREATE INDEX glass_person ON glass (person, until);
