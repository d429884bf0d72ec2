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
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (person, role, tenant)
);

CREATE TABLE session (
    digest      text PRIMARY KEY,
    person      bigint NOT NULL REFERENCES person ON DELETE CASCADE,
    csrf        text NOT NULL,
    address     text NOT NULL,
    created     timestamptz NOT NULL DEFAULT now(),
    seen        timestamptz NOT NULL DEFAULT now(),
    expires     timestamptz NOT NULL
);
CREATE INDEX session_person ON session (person);
