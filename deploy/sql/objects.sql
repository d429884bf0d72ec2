-- Every object that the database says is in the store, one key a line: chunks of open and of committed scans, files of
-- series. docs/operator.md shows the call.
WITH manifest AS (
    SELECT site, id, translate(split_part(signed, '.', 2), '-_', '+/') AS base64
    FROM scan WHERE signed IS NOT NULL AND raw_deleted IS NULL
),
payload AS (
    SELECT site, id, convert_from(
        decode(base64 || repeat('=', (4 - length(base64) % 4) % 4), 'base64'), 'UTF8')::jsonb AS content
    FROM manifest
),
named AS (
    SELECT 'raw' AS kind, site, id, chunk ->> 0 AS digest
    FROM payload, jsonb_array_elements(content -> 'parts') AS part, jsonb_array_elements(part -> 'chunks') AS chunk
    UNION
    SELECT 'raw', site, scan.id, digest FROM chunk JOIN scan ON number = chunk.scan
    UNION
    SELECT 'series', site, id, sha256 FROM output JOIN scan ON number = output.scan WHERE series_deleted IS NULL
)
SELECT concat_ws('/', kind, site, id, left(digest, 2), digest) COLLATE "C" AS key FROM named ORDER BY key;
