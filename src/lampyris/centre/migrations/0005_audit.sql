-- The chain of what was done. Rows are added and never changed: the rules stand in the database too.

CREATE TABLE audit (
    number      bigint PRIMARY KEY,
    at          timestamptz NOT NULL,
    kind        text NOT NULL,
    who         text NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('success', 'refused', 'failed')),
    address     text,
    site        text,
    object      text,
    detail      jsonb NOT NULL,
    digest      text NOT NULL
);
COMMENT ON COLUMN audit.site IS 'the tenant whose data it was about; null: the centre itself';
COMMENT ON COLUMN audit.digest IS 'SHA-256 of the entry in canonical JSON, the digest before it included';
CREATE INDEX audit_at ON audit (at, number);
CREATE INDEX audit_who ON audit (who, number);
CREATE INDEX audit_kind ON audit (kind, number);
CREATE INDEX audit_site ON audit (site, number) WHERE site IS NOT NULL;
CREATE INDEX audit_object ON audit (object, number) WHERE object IS NOT NULL;

CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only';
END $$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();

-- How far a repository of audit messages has the chain; sending goes on behind it.
CREATE TABLE audit_sent (
    repository  text PRIMARY KEY,
    number      bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
