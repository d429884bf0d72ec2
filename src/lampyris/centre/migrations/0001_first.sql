-- Sites, scans, and what is known of them. Times are UTC; identity has no column anywhere.

CREATE TABLE site (
    id          text PRIMARY KEY,
    created     timestamptz NOT NULL DEFAULT now(),
    suspended   boolean NOT NULL DEFAULT false
);

CREATE TABLE site_key (
    id          text PRIMARY KEY,
    site        text NOT NULL REFERENCES site,
    key         jsonb NOT NULL,
    created     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX site_key_site ON site_key (site);

-- One-time codes, by their SHA-256: whoever reads the table cannot enrol.
CREATE TABLE enrolment_code (
    digest      text PRIMARY KEY,
    site        text NOT NULL REFERENCES site,
    expires     timestamptz NOT NULL,
    used_by     text
);

-- Assertions that were shown, until they would be refused for their age.
CREATE TABLE assertion (
    site        text NOT NULL REFERENCES site,
    jti         text NOT NULL,
    expires     timestamptz NOT NULL,
    PRIMARY KEY (site, jti)
);
CREATE INDEX assertion_expires ON assertion (expires);

-- Keys of access tokens; the newest signs, all verify.
CREATE TABLE token_secret (
    id          text PRIMARY KEY,
    secret      bytea NOT NULL,
    created     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE scan (
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site            text NOT NULL REFERENCES site,
    id              text NOT NULL,
    state           text NOT NULL DEFAULT 'open'
                    CHECK (state IN ('open', 'queued', 'running', 'done', 'refused', 'failed')),
    priority        text NOT NULL CHECK (priority IN ('stat', 'routine', 'batch')),
    skeleton        text NOT NULL,
    signed          text,
    manifest        text,
    bytes           bigint NOT NULL DEFAULT 0,
    reason_code     text,
    reason          text,
    station         text,
    progress        real NOT NULL DEFAULT 0,
    attempts        integer NOT NULL DEFAULT 0,
    job             bigint,
    turn            bigint NOT NULL DEFAULT 0,
    opened          timestamptz NOT NULL DEFAULT now(),
    updated         timestamptz NOT NULL DEFAULT now(),
    committed       timestamptz,
    finished        timestamptz,
    verdict         text,
    cursor          bigint UNIQUE,
    returned        timestamptz,
    raw_deleted     timestamptz,
    series_deleted  timestamptz,
    UNIQUE (site, id),
    CHECK (state IN ('open', 'refused') OR signed IS NOT NULL),
    CHECK ((state IN ('done', 'refused', 'failed')) = (finished IS NOT NULL)),
    CHECK (state NOT IN ('refused', 'failed') OR reason_code IS NOT NULL)
);
CREATE INDEX scan_active ON scan (state, priority) WHERE state IN ('open', 'queued', 'running');
CREATE INDEX scan_returns ON scan (site, cursor) WHERE cursor IS NOT NULL AND returned IS NULL;
CREATE INDEX scan_finished ON scan (finished) WHERE raw_deleted IS NULL OR series_deleted IS NULL;
CREATE SEQUENCE scan_cursor;

-- Chunks of open scans. A committed scan's are in its manifest.
CREATE TABLE chunk (
    scan        bigint NOT NULL REFERENCES scan ON DELETE CASCADE,
    digest      text NOT NULL,
    bytes       integer NOT NULL,
    received    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scan, digest)
);

CREATE TABLE output (
    scan        bigint NOT NULL REFERENCES scan ON DELETE CASCADE,
    name        text NOT NULL,
    bytes       bigint NOT NULL,
    sha256      text NOT NULL,
    PRIMARY KEY (scan, name)
);

-- Every change of a scan's state: the audit, and what sites are told of.
CREATE TABLE event (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    scan        bigint NOT NULL REFERENCES scan ON DELETE CASCADE,
    site        text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    state       text NOT NULL,
    reason_code text
);
CREATE INDEX event_site ON event (site, number);

-- Fair shares: the turn of a site's last scan and the turn that is being served, for each priority.
CREATE TABLE share (
    site        text NOT NULL REFERENCES site,
    priority    text NOT NULL,
    turn        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (site, priority)
);
CREATE TABLE served (
    priority    text PRIMARY KEY,
    turn        bigint NOT NULL DEFAULT 0
);
INSERT INTO served (priority) VALUES ('stat'), ('routine'), ('batch');
