-- What people ask of scans and sites, with 100 000 of them: every question has its index. What sites tell of themselves.

ALTER TABLE scan ADD COLUMN recipe text GENERATED ALWAYS AS (skeleton::jsonb ->> 'recipe') STORED;
COMMENT ON COLUMN scan.recipe IS 'what the site asked for; null: the choice of the centre';
CREATE INDEX scan_of_site ON scan (site, number);
CREATE INDEX scan_in_state ON scan (state, number);
CREATE INDEX scan_with_recipe ON scan (recipe text_pattern_ops, site) WHERE recipe IS NOT NULL;
CREATE INDEX scan_named ON scan (id text_pattern_ops);
CREATE INDEX scan_opened ON scan (opened);
CREATE INDEX scan_ended ON scan (finished) INCLUDE (site, state) WHERE finished IS NOT NULL;
CREATE INDEX event_of_scan ON event (scan, number);

ALTER TABLE site ADD COLUMN seen timestamptz;
COMMENT ON COLUMN site.seen IS 'when it last showed who it is';

CREATE TABLE site_report (
    site            text PRIMARY KEY REFERENCES site ON DELETE CASCADE,
    at              timestamptz NOT NULL DEFAULT now(),
    version         text NOT NULL,
    spool_scans     integer NOT NULL,
    spool_bytes     bigint NOT NULL,
    oldest_s        double precision NOT NULL,
    calibrations    jsonb NOT NULL
);
COMMENT ON TABLE site_report IS 'what an agent last told of itself; oldest_s: age of the oldest scan in its spool';
COMMENT ON COLUMN site_report.calibrations IS '{scanner: seconds since its last calibration scan}';
