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
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_who ON audit (who, at);
CREATE INDEX audit_object ON audit (object) WHERE object IS NOT NULL;

CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only';
END $$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
