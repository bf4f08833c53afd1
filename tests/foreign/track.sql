-- pgoutput says nothing of DDL. Each statement that changes what tables there are, or their columns, leaves a row in
-- foreign_test.log, which is published as any other: who rebuilds the tables from the events is told by an event, in its
-- place among them, that a table is gone, has another name, or was rewritten, and then what it holds.
CREATE SCHEMA foreign_test;
SET search_path = foreign_test, pg_catalog;

CREATE TABLE log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what text NOT NULL CHECK (what IN ('dropped', 'renamed', 'rewritten')),
    name text NOT NULL,    -- as it was
    new_name text,         -- as it is
    content text           -- the rows of a rewritten table: a JSON array
);

CREATE UNLOGGED TABLE known (oid oid PRIMARY KEY, name text NOT NULL, shape text NOT NULL);

-- What the events show: permanent tables, each partition under its own name.
CREATE VIEW present AS
    SELECT c.oid, jsonb_build_array(n.nspname, c.relname)::text AS name, c.relreplident
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'foreign_test') AND n.nspname !~ '^pg_toast';

CREATE FUNCTION shape_of(tab oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE(string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attgenerated), ',' ORDER BY attnum), '')
    FROM pg_attribute WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped
$$;

-- How a column's value is said here, where the events differ from row_to_json on purpose: `bytea` is Base64. What of the
-- rest is only written otherwise is known to `canonical` of mirror.rs.
CREATE FUNCTION value_of(column_name name, type oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format(CASE WHEN type = 'bytea'::regtype THEN 'translate(encode(%1$I, ''base64''), E''\n'', '''') AS %1$I'
                  ELSE '%1$I' END, column_name)
$$;

-- The query for a table's rows, each as one text of JSON; generated columns are not in the events.
CREATE FUNCTION query_of(tab oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('SELECT row_to_json(r)::text AS r FROM (SELECT %s FROM ONLY %s) r',
                  string_agg(foreign_test.value_of(attname, atttypid), ', ' ORDER BY attnum), tab::regclass)
    FROM pg_attribute WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;

CREATE FUNCTION track() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = foreign_test, pg_catalog, pg_temp SET DateStyle = ISO SET IntervalStyle = iso_8601 SET TimeZone = UTC
    SET extra_float_digits = 1 SET bytea_output = hex SET lc_monetary = 'C' SET row_security = off AS $$
DECLARE
    altered oid[];
    tab record;
    rows text;
BEGIN
    FOR tab IN SELECT known.* FROM known LEFT JOIN present USING (oid) WHERE present.oid IS NULL LOOP
        INSERT INTO log (what, name) VALUES ('dropped', tab.name);
        DELETE FROM known WHERE oid = tab.oid;
    END LOOP;
    FOR tab IN SELECT known.oid, known.name, present.name AS new_name FROM known JOIN present USING (oid)
               WHERE known.name <> present.name LOOP
        INSERT INTO log (what, name, new_name) VALUES ('renamed', tab.name, tab.new_name);
        UPDATE known SET name = tab.new_name WHERE oid = tab.oid;
    END LOOP;
    -- What was dropped may have taken columns with it; else it is a table with those that inherit from it.
    IF tg_tag ~ '^(DROP|ALTER TYPE|ALTER DOMAIN)' THEN
        altered := ARRAY(SELECT oid FROM known);
    ELSIF tg_tag = 'ALTER TABLE' THEN
        altered := ARRAY(WITH RECURSIVE tree AS (
            SELECT objid AS oid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass
            UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = oid) SELECT oid FROM tree);
    END IF;
    FOR tab IN SELECT oid, name, shape_of(oid) AS new_shape FROM known
               WHERE oid = ANY(altered) AND shape <> shape_of(oid) LOOP
        EXECUTE format('SELECT json_agg(r::json)::text FROM (%s) r', query_of(tab.oid)) INTO rows;
        INSERT INTO log (what, name, content) VALUES ('rewritten', tab.name, rows);
        UPDATE known SET shape = tab.new_shape WHERE oid = tab.oid;
    END LOOP;
    INSERT INTO known SELECT oid, name, shape_of(oid) FROM present WHERE oid NOT IN (SELECT oid FROM known);
    -- Else PostgreSQL would refuse updates and deletes, now that the table is published.
    FOR tab IN SELECT * FROM present WHERE relreplident = 'd' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = present.oid AND indisprimary AND indimmediate) LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', tab.oid::regclass);
        EXCEPTION WHEN object_in_use THEN -- by a query that runs right now: the next statement does it
        END;
    END LOOP;
END $$;

CREATE EVENT TRIGGER foreign_test ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA', 'ALTER TABLE', 'ALTER SCHEMA', 'ALTER TYPE',
                 'ALTER DOMAIN', 'DROP TABLE', 'DROP SCHEMA', 'DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION', 'DROP OPERATOR',
                 'DROP OWNED', 'DROP EXTENSION', 'DROP COLLATION', 'DROP INDEX', 'DROP ACCESS METHOD')
    EXECUTE FUNCTION track();
RESET search_path;
CREATE PUBLICATION foreign_test FOR ALL TABLES;
