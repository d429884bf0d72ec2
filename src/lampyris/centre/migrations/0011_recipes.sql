-- Recipes that the centre offers, when each was active, and which of them a scan gets that names none.

CREATE TABLE recipe (
    digest      text PRIMARY KEY,
    name        text NOT NULL,
    version     text NOT NULL,
    json        text NOT NULL,
    origin      text NOT NULL CHECK (origin IN ('package', 'uploaded')),
    added       timestamptz NOT NULL DEFAULT now(),
    added_by    text NOT NULL,
    UNIQUE (name, version)
);
COMMENT ON COLUMN recipe.digest IS 'SHA-256 of json, which is canonical; it stands in every image that was made so';

CREATE FUNCTION recipe_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a recipe is never changed: add another version';
END $$;
CREATE TRIGGER recipe_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON recipe
    FOR EACH STATEMENT EXECUTE FUNCTION recipe_stays();

CREATE TABLE recipe_period (
    digest      text NOT NULL REFERENCES recipe,
    name        text NOT NULL,
    since       timestamptz NOT NULL,
    until       timestamptz,
    begun_by    text NOT NULL,
    ended_by    text,
    CHECK (until >= since),
    CHECK ((until IS NULL) = (ended_by IS NULL))
);
CREATE UNIQUE INDEX recipe_active ON recipe_period (name) WHERE until IS NULL;
CREATE INDEX recipe_period_digest ON recipe_period (digest, since);

-- What the package offered when: its recipes are read again when it is another one.
CREATE TABLE recipe_release (
    digest      text PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now()
);

-- Which recipe a scan gets that names none: the first rule that fits. Each change is another table; the newest holds.
CREATE TABLE protocol (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    since       timestamptz NOT NULL DEFAULT now(),
    who         text NOT NULL,
    rules       jsonb NOT NULL
);
