SELECT pg_advisory_xact_lock(hashtext('sluice.decision'));
CREATE SCHEMA IF NOT EXISTS sluice;
GRANT USAGE ON SCHEMA sluice TO PUBLIC;

-- Which tenant has a value of a key; on the shard that owns the value.
CREATE TABLE IF NOT EXISTS sluice.unique_row (
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, value)
);

-- What triggers tell the proxy of a statement; empty between statements. `is_new` is NULL for TRUNCATE.
CREATE UNLOGGED TABLE IF NOT EXISTS sluice.unique_change (
    xid xid8 NOT NULL,
    key text COLLATE "C" NOT NULL,
    is_new bool,
    value text COLLATE "C",
    tenant text COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX IF NOT EXISTS unique_change_xid ON sluice.unique_change (xid);

CREATE OR REPLACE FUNCTION sluice.unique_table(key text) RETURNS regclass LANGUAGE sql STABLE
SET search_path = pg_catalog AS $body$
    SELECT to_regclass(format('%I.%I', split_part(name, '.', 1), split_part(name, '.', 2)))
    FROM split_part(key, '(', 1) AS name
$body$;

CREATE OR REPLACE FUNCTION sluice.unique_columns(key text) RETURNS text[] LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog AS $body$
    SELECT string_to_array(rtrim(split_part(key, '(', 2), ')'), ',')
$body$;

CREATE OR REPLACE FUNCTION sluice.unique_triggers(key text) RETURNS text[] LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog AS $body$
    SELECT array_agg('sluice_unique_' || left(md5(key), 8) || '_' || kind)
    FROM unnest(ARRAY['rows', 'values', 'all']) AS kind
$body$;

-- The unique index that keeps the key on this shard, whether or not it can be kept over shards.
CREATE OR REPLACE FUNCTION sluice.unique_index(key text) RETURNS oid LANGUAGE sql STABLE
SET search_path = pg_catalog AS $body$
    SELECT i.indexrelid FROM pg_index i
    WHERE i.indrelid = sluice.unique_table(key) AND i.indisunique AND i.indislive
    AND (SELECT array_agg(coalesce(a.attname, '')::text ORDER BY a.attname)
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, ord)
         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
         WHERE k.ord <= i.indnkeyatts)
      = (SELECT array_agg(name ORDER BY name COLLATE "C") FROM unnest(sluice.unique_columns(key)) AS name)
    ORDER BY i.indisvalid DESC, i.indpred IS NULL DESC, i.indexrelid LIMIT 1
$body$;

-- A value in its columns' texts.
CREATE OR REPLACE FUNCTION sluice.unique_parts(key text, value text) RETURNS text[] LANGUAGE plpgsql
IMMUTABLE SET search_path = pg_catalog AS $body$
DECLARE
    count int := cardinality(sluice.unique_columns(key));
    parts text[] := '{}';
    digits text;
BEGIN
    IF count = 1 THEN
        RETURN ARRAY[value];
    END IF;
    WHILE value <> '' LOOP
        digits := split_part(value, ':', 1);
        parts := parts || substr(value, length(digits) + 2, digits::int);
        value := substr(value, length(digits) + 2 + digits::int);
    END LOOP;
    RETURN parts;
END $body$;

-- A row's value; NULL if one of its columns is. The arguments are a trigger's.
CREATE OR REPLACE FUNCTION sluice.unique_value(whole jsonb, args text[]) RETURNS text LANGUAGE plpgsql
IMMUTABLE SET search_path = pg_catalog AS $body$
DECLARE
    first int := array_lower(args, 1) + 2;
    part text;
    value text := '';
BEGIN
    IF array_upper(args, 1) = first THEN
        RETURN whole ->> args[first];
    END IF;
    FOR at IN first .. array_upper(args, 1) LOOP
        part := whole ->> args[at];
        value := value || length(part) || ':' || part;
    END LOOP;
    RETURN value;
END $body$;

-- The trigger. Its arguments: the key, the tenant column, the key's columns.
CREATE OR REPLACE FUNCTION sluice.note_unique() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $body$
DECLARE
    whole jsonb;
    value text;
BEGIN
    IF current_setting('sluice.watch', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            MESSAGE = format('rows of %I.%I hold a key that is unique over all shards', TG_TABLE_SCHEMA, TG_TABLE_NAME),
            DETAIL = format('%s is kept by pgsluice, which does not know that this statement changes it.', TG_ARGV[0]),
            HINT = 'Change such rows through pgsluice, by statements that name the table.';
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO sluice.unique_change (xid, key) VALUES (pg_current_xact_id(), TG_ARGV[0]);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        whole := to_jsonb(OLD);
        value := sluice.unique_value(whole, TG_ARGV);
        IF value IS NOT NULL THEN
            INSERT INTO sluice.unique_change
                VALUES (pg_current_xact_id(), TG_ARGV[0], false, value, whole ->> TG_ARGV[1]);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        whole := to_jsonb(NEW);
        value := sluice.unique_value(whole, TG_ARGV);
        IF value IS NOT NULL THEN
            INSERT INTO sluice.unique_change
                VALUES (pg_current_xact_id(), TG_ARGV[0], true, value, whole ->> TG_ARGV[1]);
        END IF;
    END IF;
    RETURN NULL;
END $body$;

-- What this shard has of a key: nothing ('none'), what is left of it ('stale'), the index alone
-- ('index'), or all ('kept'); 'refused: ' and why, if it cannot be kept.
CREATE OR REPLACE FUNCTION sluice.unique_state(key text, tenant text) RETURNS text LANGUAGE plpgsql
STABLE SECURITY DEFINER SET search_path = pg_catalog AS $body$
DECLARE
    of regclass := sluice.unique_table(key);
    index pg_index;
    why text;
    triggers bigint;
    is_left bool := EXISTS (SELECT FROM sluice.unique_row r WHERE r.key = unique_state.key);
BEGIN
    SELECT * INTO index FROM pg_index i WHERE i.indexrelid = sluice.unique_index(unique_state.key)
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = of AND a.attname = tenant);
    SELECT count(*) INTO triggers FROM pg_trigger t WHERE t.tgrelid = of AND t.tgenabled IN ('O', 'A')
        AND t.tgname = ANY (sluice.unique_triggers(unique_state.key));
    IF index.indexrelid IS NULL THEN
        RETURN CASE WHEN is_left OR triggers > 0 THEN 'stale' ELSE 'none' END;
    END IF;
    SELECT CASE
        WHEN index.indpred IS NOT NULL THEN 'its index has a condition'
        WHEN NOT index.indisvalid THEN 'its index is not valid'
        WHEN to_jsonb(index) ->> 'indnullsnotdistinct' = 'true' THEN 'its index takes NULLs as equal'
        WHEN NOT index.indimmediate THEN 'it is deferrable'
        WHEN c.relkind <> 'r' THEN 'the table is partitioned'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = of AND a.attnum = ANY (index.indkey::int2[])
            AND a.atttypid NOT IN (20, 21, 23, 25, 1043, 2950))
            THEN 'its columns must be text, varchar, uuid, smallint, integer or bigint'
        WHEN EXISTS (SELECT FROM pg_collation o WHERE o.oid = ANY (index.indcollation::oid[])
            AND NOT o.collisdeterministic) THEN 'its collation takes different texts as equal'
        END INTO why FROM pg_class c WHERE c.oid = of;
    IF why IS NOT NULL THEN
        RETURN 'refused: ' || why;
    END IF;
    RETURN CASE triggers WHEN 3 THEN 'kept' ELSE 'index' END;
END $body$;

-- Makes the triggers, as whoever may.
CREATE OR REPLACE FUNCTION sluice.make_unique_triggers(key text, tenant text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $body$
DECLARE
    of regclass := sluice.unique_table(key);
    names text[] := sluice.unique_triggers(key);
    columns text[] := sluice.unique_columns(key);
    args text;
    condition text;
BEGIN
    PERFORM sluice.drop_unique_triggers(key);
    SELECT string_agg(quote_literal(it), ', ') INTO args FROM unnest(ARRAY[key, tenant] || columns) AS it;
    SELECT string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', it), ' OR ') INTO condition
        FROM unnest(columns || tenant) AS it;
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR DELETE ON %s FOR EACH ROW '
        'EXECUTE FUNCTION sluice.note_unique(%s)', names[1], of, args);
    EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) '
        'EXECUTE FUNCTION sluice.note_unique(%s)', names[2], of, condition, args);
    EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT '
        'EXECUTE FUNCTION sluice.note_unique(%s)', names[3], of, args);
END $body$;

CREATE OR REPLACE FUNCTION sluice.drop_unique_triggers(key text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $body$
DECLARE
    of regclass := sluice.unique_table(key);
    name text;
BEGIN
    FOR name IN SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = of
        AND t.tgname = ANY (sluice.unique_triggers(key)) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', name, of);
    END LOOP;
END $body$;

-- Before a statement: its changes will be taken.
CREATE OR REPLACE FUNCTION sluice.watch_unique(keys text[]) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $body$
DECLARE
    key text;
BEGIN
    FOREACH key IN ARRAY keys LOOP
        IF (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = sluice.unique_table(key)
                AND t.tgenabled IN ('O', 'A') AND t.tgname = ANY (sluice.unique_triggers(key))) <> 3
            OR current_setting('session_replication_role') = 'replica' THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('the unique key %s is not kept over all shards', key),
                DETAIL = 'A shard lacks what keeps it, so that a value could be stored twice.',
                HINT = 'Run pgsluice unique --repair.';
        END IF;
    END LOOP;
    PERFORM set_config('sluice.watch', 'on', true);
END $body$;

-- After it: what it has changed, values as hexadecimal UTF-8.
CREATE OR REPLACE FUNCTION sluice.take_unique()
RETURNS TABLE (key text, is_new bool, value text, tenant text) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $body$
BEGIN
    PERFORM set_config('sluice.watch', '', true);
    RETURN QUERY DELETE FROM sluice.unique_change c WHERE c.xid = pg_current_xact_id_if_assigned()
        RETURNING c.key, c.is_new, encode(convert_to(c.value, 'UTF8'), 'hex'),
            encode(convert_to(c.tenant, 'UTF8'), 'hex');
END $body$;

-- Who may not write a table may not write its keys.
CREATE OR REPLACE FUNCTION sluice.check_unique(keys text[]) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $body$
DECLARE
    key text;
BEGIN
    FOR key IN SELECT DISTINCT unnest(keys) LOOP
        IF NOT has_table_privilege(session_user, sluice.unique_table(key), 'INSERT, UPDATE, DELETE') THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = format('permission denied for the unique key %s', key),
                DETAIL = 'Its rows were changed by a user who may not write the table.';
        END IF;
    END LOOP;
END $body$;

-- Values that no row has any more. They must have been noted.
CREATE OR REPLACE FUNCTION sluice.free_unique(keys text[], "values" text[], tenants text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $body$
DECLARE
    count bigint;
BEGIN
    PERFORM sluice.check_unique(keys);
    DELETE FROM sluice.unique_row r USING unnest(keys, "values", tenants) AS g(k, v, t)
        WHERE r.key = g.k AND r.value = convert_from(decode(g.v, 'hex'), 'UTF8')
        AND r.tenant = convert_from(decode(g.t, 'hex'), 'UTF8');
    GET DIAGNOSTICS count = ROW_COUNT;
    IF count < cardinality(keys) THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('the unique key %s is not kept over all shards', keys[1]),
            DETAIL = 'A value that a row had was not noted.',
            HINT = 'Run pgsluice unique --repair.';
    END IF;
END $body$;

-- Values that rows have now; one that was taken already, if there is one, as hexadecimal UTF-8.
CREATE OR REPLACE FUNCTION sluice.claim_unique(keys text[], "values" text[], tenants text[])
RETURNS TABLE (key text, value text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $body$
#variable_conflict use_column
BEGIN
    PERFORM sluice.check_unique(keys);
    RETURN QUERY WITH given AS MATERIALIZED (
        SELECT k COLLATE "C" AS k, convert_from(decode(v, 'hex'), 'UTF8') COLLATE "C" AS v,
            convert_from(decode(t, 'hex'), 'UTF8') AS t
        FROM unnest(keys, "values", tenants) AS g(k, v, t)
    ), made AS (
        INSERT INTO sluice.unique_row (key, value, tenant) SELECT k, v, t FROM given ORDER BY k, v
        ON CONFLICT DO NOTHING RETURNING key, value
    ), taken AS (
        SELECT k, v FROM given EXCEPT ALL SELECT key, value FROM made
    )
    SELECT k, encode(convert_to(v, 'UTF8'), 'hex') FROM taken ORDER BY k, v LIMIT 1;
END $body$;

-- The error of one Postgres for a value that is taken.
CREATE OR REPLACE FUNCTION sluice.raise_unique(key text, value text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog AS $body$
DECLARE
    of regclass := sluice.unique_table(key);
    columns text[] := sluice.unique_columns(key);
    parts text[] := sluice.unique_parts(key, convert_from(decode(value, 'hex'), 'UTF8'));
    index pg_index;
    name text;
    is_of text;
    names text;
    shown text;
BEGIN
    SELECT * INTO index FROM pg_index i WHERE i.indexrelid = sluice.unique_index(raise_unique.key);
    SELECT c.relname, n.nspname INTO name, is_of FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = index.indexrelid;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord),
        string_agg(parts[array_position(columns, a.attname::text)], ', ' ORDER BY k.ord)
        INTO names, shown FROM unnest(index.indkey::int2[]) WITH ORDINALITY k(num, ord)
        JOIN pg_attribute a ON a.attrelid = of AND a.attnum = k.num WHERE k.ord <= index.indnkeyatts;
    RAISE EXCEPTION USING ERRCODE = '23505', SCHEMA = is_of, CONSTRAINT = name,
        TABLE = (SELECT relname FROM pg_class WHERE oid = of),
        MESSAGE = format('duplicate key value violates unique constraint "%s"', name),
        DETAIL = format('Key (%s)=(%s) already exists.', names, shown);
END $body$;

-- All values of a key.
CREATE OR REPLACE FUNCTION sluice.clear_unique(key text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $body$
BEGIN
    PERFORM sluice.check_unique(ARRAY[key]);
    DELETE FROM sluice.unique_row r WHERE r.key = clear_unique.key;
END $body$;

-- The tenant that has a value, for who may read the table.
CREATE OR REPLACE FUNCTION sluice.find_unique(key text, value text) RETURNS text LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog AS $body$
    SELECT encode(convert_to(r.tenant, 'UTF8'), 'hex') FROM sluice.unique_row r
    WHERE r.key = find_unique.key AND r.value = convert_from(decode(find_unique.value, 'hex'), 'UTF8')
    AND has_any_column_privilege(session_user, sluice.unique_table(find_unique.key), 'SELECT')
$body$;
