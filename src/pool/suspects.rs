//! Functions that may change their session in ways that a statement which calls them does not show:
//! settings, temporary tables, session locks. Read from their source, so that a session which has run
//! one keeps its server.

/// Kind (`f`, `r`), name: functions whose text may do that or names such a function, and relations
/// whose triggers, rules, defaults, constraints or policies call one, and parents of those.
pub(super) const SUSPECTS: &str = r#"WITH RECURSIVE own AS MATERIALIZED (
    SELECT p.oid, p.proname, lower(regexp_replace(regexp_replace(
        p.prosrc || coalesce(to_jsonb(p) ->> 'prosqlbody', ''), '--[^\n]*', '', 'g'), '/\*.*?\*/', '', 'g')) AS body
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE l.lanname NOT IN ('internal', 'c') AND p.oid >= 16384
), bad AS (
    SELECT oid, proname FROM own WHERE body ~ (
        'set_config|pg_temp|advisory_lock|dblink_connect|_shared|\mtemp(orary)?\M|with\s+hold|'
        '(^|[;''"$)]|\m(begin|then|else|loop|atomic)\M)\s*(set|reset|discard|prepare|deallocate|listen|load)\M|'
        '\mexecute\s+(?!immediate|procedure|function|''|\$\$|format\s*\(\s*'')|'
        '\mfuncid ' || 'pg_catalog.set_config'::pg_catalog.regproc::oid || '\M')
    UNION
    SELECT own.oid, own.proname FROM bad JOIN own ON strpos(own.body, lower(bad.proname)) > 0
), of_relation AS (
    SELECT t.tgrelid AS oid FROM pg_catalog.pg_trigger t JOIN bad ON bad.oid = t.tgfoid
    UNION
    SELECT coalesce(w.ev_class, a.adrelid, o.conrelid, y.polrelid) FROM pg_catalog.pg_depend d
    JOIN bad ON bad.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_constraint o ON o.oid = d.objid AND d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_policy y ON y.oid = d.objid AND d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
), related AS (
    SELECT oid FROM of_relation WHERE oid <> 0
    UNION
    SELECT coalesce(i.inhparent, w.ev_class) FROM related
    LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = related.oid
    LEFT JOIN pg_catalog.pg_depend d ON d.refobjid = related.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
    WHERE coalesce(i.inhparent, w.ev_class) IS NOT NULL
)
SELECT DISTINCT 'f', proname FROM bad
UNION SELECT 'r', c.relname FROM related JOIN pg_catalog.pg_class c ON c.oid = related.oid
ORDER BY 1, 2"#;
