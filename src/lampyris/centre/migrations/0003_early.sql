-- What was announced of a scan that still arrives, and what was made of it before its commit.
CREATE TABLE early (
    scan        bigint PRIMARY KEY REFERENCES scan ON DELETE CASCADE,
    part        text NOT NULL,
    whole       integer NOT NULL,
    looked      integer NOT NULL DEFAULT 0,
    bytes       bigint NOT NULL DEFAULT 0,
    held        timestamptz,
    story       text,
    updated     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN early.part IS 'the announced part, as the protocol writes it';
COMMENT ON COLUMN early.whole IS 'chunks of it that are here, from the first on';
COMMENT ON COLUMN early.looked IS 'how many of these a worker has looked at';
COMMENT ON COLUMN early.held IS 'until when a worker is at it';
CREATE INDEX early_due ON early (updated) WHERE whole > looked;

INSERT INTO retention (what, days) VALUES ('early', 2);
