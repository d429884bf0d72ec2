-- Scans that are reconstructed once more with another recipe, what was made then, and pictures drawn of series.

CREATE TABLE remake (
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    scan            bigint NOT NULL REFERENCES scan ON DELETE CASCADE,
    recipe          text NOT NULL,
    version         text NOT NULL,
    who             text NOT NULL,
    state           text NOT NULL DEFAULT 'queued'
                    CHECK (state IN ('queued', 'running', 'done', 'refused', 'failed')),
    priority        integer NOT NULL,
    job             bigint,
    attempts        integer NOT NULL DEFAULT 0,
    station         text,
    progress        real NOT NULL DEFAULT 0,
    reason_code     text,
    reason          text,
    verdict         text,
    asked           timestamptz NOT NULL DEFAULT now(),
    updated         timestamptz NOT NULL DEFAULT now(),
    finished        timestamptz,
    UNIQUE (scan, recipe, version),
    CHECK ((state IN ('done', 'refused', 'failed')) = (finished IS NOT NULL)),
    CHECK (state NOT IN ('refused', 'failed') OR reason_code IS NOT NULL)
);
COMMENT ON COLUMN remake.who IS 'login of who asked, or policy';
CREATE INDEX remake_active ON remake (state) WHERE state IN ('queued', 'running');

CREATE TABLE remake_output (
    remake          bigint NOT NULL REFERENCES remake ON DELETE CASCADE,
    name            text NOT NULL,
    bytes           bigint NOT NULL,
    sha256          text NOT NULL,
    PRIMARY KEY (remake, name)
);
