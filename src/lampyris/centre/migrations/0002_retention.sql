-- How long what has ended is kept, in days; the operator changes it, all workers go by it.
CREATE TABLE retention (
    what        text PRIMARY KEY,
    days        double precision NOT NULL CHECK (days >= 0)
);
INSERT INTO retention (what, days) VALUES
    ('abandoned', 14), ('raw', 30), ('failed', 90), ('series', 30), ('events', 90);
