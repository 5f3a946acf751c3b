-- What sqlx::migrate! and refinery send: an advisory lock, a table of what is done, each file as one text in a transaction.
SELECT current_database() IS NOT NULL AS named;
SELECT pg_advisory_lock(2305843009213693951);
CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL);
SELECT version FROM _sqlx_migrations WHERE success = false ORDER BY version LIMIT 1;
SELECT version, checksum FROM _sqlx_migrations ORDER BY version;
BEGIN;
CREATE TABLE tenants (id bigint PRIMARY KEY)\; CREATE TABLE users (tenant_id bigint REFERENCES tenants, id bigint GENERATED ALWAYS AS IDENTITY, email text, PRIMARY KEY (tenant_id, id))\; INSERT INTO tenants SELECT generate_series(1, 30)\; INSERT INTO users (tenant_id, email) SELECT id, id || '@example.com' FROM tenants;
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (20300101, 'first', TRUE, '\x01', -1);
COMMIT;
UPDATE _sqlx_migrations SET execution_time = 5 WHERE version = 20300101;
BEGIN;
CREATE TABLE posts (tenant_id bigint, id uuid DEFAULT gen_random_uuid(), author bigint, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, author) REFERENCES users (tenant_id, id) ON DELETE CASCADE)\; INSERT INTO posts (tenant_id, author) SELECT tenant_id, id FROM users;
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (20300102, 'second', TRUE, '\x02', -1);
COMMIT;
SELECT pg_advisory_unlock(2305843009213693951);
-- refinery
CREATE TABLE IF NOT EXISTS refinery_schema_history (version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));
SELECT version, name, applied_on, checksum FROM refinery_schema_history where version=(SELECT MAX(version) from refinery_schema_history);
BEGIN;
ALTER TABLE users ADD COLUMN name text NOT NULL DEFAULT '';
INSERT INTO refinery_schema_history (version,name,applied_on,checksum) VALUES (1, 'name', '2030-01-01T00:00:00Z', '1234');
COMMIT;
SELECT version, name, applied_on, checksum FROM refinery_schema_history ORDER BY version ASC;
DELETE FROM users WHERE tenant_id > 20;
SELECT count(*) FROM posts;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.email = lower(NEW.email); RETURN NEW; END $f$\; CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
SELECT version, description, success, checksum, execution_time FROM _sqlx_migrations ORDER BY version;
