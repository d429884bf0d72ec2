-- Nodes of the DICOM network, what they are sent, the worklist, performed procedure steps, storage commitment.

CREATE TABLE node (
    aet         text PRIMARY KEY CHECK (aet ~ '^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$'),
    site        text NOT NULL REFERENCES site ON DELETE CASCADE,
    host        text NOT NULL,
    port        integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    may         text[] NOT NULL DEFAULT '{}'
                CHECK (may <@ '{store,query,retrieve,worklist,mpps,commitment}'::text[]),
    tls         boolean NOT NULL DEFAULT false,
    charset     text NOT NULL DEFAULT 'ISO_IR 192' CHECK (charset IN ('ISO_IR 192', 'GB18030', 'GBK', 'ISO_IR 100')),
    syntaxes    text[] NOT NULL DEFAULT '{}',
    stow        text,
    commits     boolean NOT NULL DEFAULT false,
    created     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN node.may IS 'what it may ask of us';
COMMENT ON COLUMN node.charset IS 'in which it is answered';
COMMENT ON COLUMN node.syntaxes IS 'transfer syntaxes that it is offered; none: those of the objects, then uncompressed';
COMMENT ON COLUMN node.stow IS 'where it takes STOW-RS; null: it is sent C-STORE';
COMMENT ON COLUMN node.commits IS 'whether it is asked to commit itself to what it was sent';
CREATE INDEX node_site ON node (site);

-- A study, or a series of it, on its way to a node.
CREATE TABLE sending (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site        text NOT NULL REFERENCES site ON DELETE CASCADE,
    study_uid   text NOT NULL,
    series_uid  text,
    node        text NOT NULL REFERENCES node ON DELETE CASCADE,
    who         text NOT NULL,
    address     text NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    way         text CHECK (way IN ('c-store', 'stow')),
    total       integer NOT NULL DEFAULT 0,
    sent        integer NOT NULL DEFAULT 0,
    bytes       bigint NOT NULL DEFAULT 0,
    attempts    integer NOT NULL DEFAULT 0,
    reason_code text,
    reason      text,
    job         bigint,
    commitment  text NOT NULL DEFAULT 'none'
                CHECK (commitment IN ('none', 'asked', 'committed', 'refused', 'silent')),
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now(),
    finished    timestamptz,
    CHECK ((state IN ('done', 'failed')) = (finished IS NOT NULL))
);
COMMENT ON COLUMN sending.site IS 'whose study it is';
CREATE INDEX sending_study ON sending (study_uid, site);
CREATE INDEX sending_active ON sending (state) WHERE state IN ('waiting', 'running');

-- Storage commitment: what a node asked of us, and what we asked of a node.
CREATE TABLE commitment (
    number      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    node        text NOT NULL REFERENCES node ON DELETE CASCADE,
    ours        boolean NOT NULL,
    transaction text NOT NULL,
    sending     bigint REFERENCES sending ON DELETE CASCADE,
    instances   jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'told', 'failed')),
    attempts    integer NOT NULL DEFAULT 0,
    job         bigint,
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (node, ours, transaction)
);
COMMENT ON COLUMN commitment.ours IS 'whether we asked; otherwise the node did';
COMMENT ON COLUMN commitment.instances IS 'pairs of SOP class and instance';
COMMENT ON COLUMN commitment.state IS 'told: the one who asked knows the outcome';
CREATE INDEX commitment_waiting ON commitment (state) WHERE state = 'waiting';

-- Scheduled procedure steps. Dates and times are those of the place, as DICOM has them.
CREATE TABLE worklist (
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    site            text NOT NULL REFERENCES site ON DELETE CASCADE,
    step            text NOT NULL,
    accession       text NOT NULL DEFAULT '',
    study_uid       text NOT NULL,
    procedure       text NOT NULL DEFAULT '',
    description     text NOT NULL DEFAULT '',
    patient_id      text NOT NULL,
    issuer          text NOT NULL DEFAULT '',
    patient_name    text NOT NULL,
    birth_date      text NOT NULL DEFAULT '',
    sex             text NOT NULL DEFAULT '',
    referring       text NOT NULL DEFAULT '',
    modality        text NOT NULL DEFAULT 'CT',
    station         text NOT NULL DEFAULT '',
    date            text NOT NULL,
    time            text NOT NULL DEFAULT '',
    state           text NOT NULL DEFAULT 'scheduled'
                    CHECK (state IN ('scheduled', 'in_progress', 'completed', 'discontinued', 'withdrawn')),
    who             text NOT NULL,
    created         timestamptz NOT NULL DEFAULT now(),
    updated         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (site, step)
);
COMMENT ON COLUMN worklist.step IS 'Scheduled Procedure Step ID';
COMMENT ON COLUMN worklist.station IS 'Scheduled Station AE Title; empty: any';
CREATE INDEX worklist_due ON worklist (site, date) WHERE state = 'scheduled';

-- Modality performed procedure steps, as modalities tell of them.
CREATE TABLE performed (
    uid         text PRIMARY KEY,
    site        text NOT NULL REFERENCES site ON DELETE CASCADE,
    node        text NOT NULL REFERENCES node ON DELETE CASCADE,
    worklist    bigint REFERENCES worklist ON DELETE SET NULL,
    study_uid   text NOT NULL DEFAULT '',
    state       text NOT NULL CHECK (state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
    json        jsonb NOT NULL,
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN performed.json IS 'its attributes in DICOM JSON';
CREATE INDEX performed_study ON performed (study_uid, site);
