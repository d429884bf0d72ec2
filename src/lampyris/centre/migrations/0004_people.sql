-- Tenants (province, city, county, site), people and machines, their roles and sessions. A site is a tenant of its name.

CREATE TABLE tenant (
    id          text PRIMARY KEY,
    parent      text REFERENCES tenant,
    kind        text NOT NULL CHECK (kind IN ('centre', 'province', 'city', 'county', 'site')),
    name        text NOT NULL,
    CHECK ((parent IS NULL) = (kind = 'centre'))
);
CREATE INDEX tenant_parent ON tenant (parent);
INSERT INTO tenant (id, kind, name) VALUES ('centre', 'centre', 'Centre');
INSERT INTO tenant (id, parent, kind, name) SELECT id, 'centre', 'site', id FROM site;

CREATE FUNCTION site_is_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant (id, parent, kind, name) VALUES (NEW.id, 'centre', 'site', NEW.id) ON CONFLICT DO NOTHING;
        RETURN NEW;
    END IF;
    DELETE FROM tenant WHERE id = OLD.id AND kind = 'site';
    RETURN OLD;
END $$;
CREATE TRIGGER site_is_tenant AFTER INSERT OR DELETE ON site FOR EACH ROW EXECUTE FUNCTION site_is_tenant();

CREATE TABLE person (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    login       text NOT NULL UNIQUE CHECK (login ~ '^[a-z0-9][a-z0-9._@-]{0,63}$'),
    name        text NOT NULL,
    password    text,
    subject     text UNIQUE,
    language    text,
    service     boolean NOT NULL DEFAULT false,
    disabled    boolean NOT NULL DEFAULT false,
    created     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN person.password IS 'argon2id; null: no local sign-in';
COMMENT ON COLUMN person.subject IS 'issuer and subject of OIDC';

CREATE TABLE granted (
    person      bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    role        text NOT NULL,
    tenant      text NOT NULL REFERENCES tenant ON DELETE CASCADE,
    origin      text NOT NULL DEFAULT 'local' CHECK (origin IN ('local', 'oidc')),
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (person, role, tenant, origin)
);
CREATE INDEX granted_tenant ON granted (tenant);
COMMENT ON COLUMN granted.origin IS 'local: by somebody here; oidc: by a claim, made anew at each sign-in';

CREATE TABLE session (
    digest      text PRIMARY KEY,
    number      bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    person      bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    csrf        text NOT NULL,
    address     text NOT NULL,
    agent       text NOT NULL DEFAULT '',
    created     timestamptz NOT NULL DEFAULT now(),
    seen        timestamptz NOT NULL DEFAULT now(),
    expires     timestamptz NOT NULL
);
CREATE INDEX session_person ON session (person);

-- What a machine or a script shows with each request; shown once when it is made, kept as SHA-256.
CREATE TABLE access_token (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    digest      text NOT NULL UNIQUE,
    person      bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    name        text NOT NULL,
    created     timestamptz NOT NULL DEFAULT now(),
    expires     timestamptz NOT NULL,
    used        timestamptz,
    address     text
);
CREATE INDEX access_token_person ON access_token (person);

-- A link that lets somebody in once: to choose a password, or, on the machine itself, into a demonstration.
CREATE TABLE link (
    digest      text PRIMARY KEY,
    person      bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    purpose     text NOT NULL CHECK (purpose IN ('password', 'demo')),
    expires     timestamptz NOT NULL
);

-- Who tried to sign in, by login and by address, and until when the next try waits. Lost in a crash, and no harm done.
CREATE UNLOGGED TABLE attempt (
    key         text PRIMARY KEY,
    failures    integer NOT NULL,
    last        timestamptz NOT NULL,
    until       timestamptz NOT NULL
);

-- Sign-ins that are under way at an OpenID provider.
CREATE TABLE flow (
    digest      text PRIMARY KEY,
    nonce       text NOT NULL,
    verifier    text NOT NULL,
    next        text NOT NULL,
    expires     timestamptz NOT NULL
);

-- Bytes that somebody stored, by day (UTC): person:NUMBER or node:TITLE.
CREATE TABLE stored (
    who         text NOT NULL,
    day         date NOT NULL,
    bytes       bigint NOT NULL,
    PRIMARY KEY (who, day)
);
