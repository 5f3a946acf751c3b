//! `sluice.unique_id()` and `sluice.uuid_v7()`, which every shard has as SQL functions, so that they may be
//! defaults.
//!
//! An id is 41 bits of milliseconds since 2025, 7 bits of the shard and 15 bits that count. The sequence
//! `sluice.unique_clock` holds the time and the count of a shard's last id: it only ever rises, whatever
//! the clock does. A lock makes looking at the clock and taking the number one step; it is given back at
//! once, by rolling back to before it was taken, which undoes nothing that a sequence does.

use super::catalog::Source;
use super::control::{Control, ControlError};
use crate::shard::ShardId;

/// Rises with every change of the functions.
const VERSION: u8 = 1;

/// Whether a shard has the functions, made for it and not for another.
///
/// # Errors
/// As the source.
pub(super) async fn are_made(
    source: &mut impl Source,
    shard: ShardId,
) -> Result<bool, ControlError> {
    let rows = source
        .rows(
            "SELECT pg_catalog.obj_description(\
             pg_catalog.to_regprocedure('sluice.unique_id()'), 'pg_proc')",
        )
        .await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some(&*mark(shard)))
}

/// Makes the functions where they are missing; whether they are there.
pub(super) async fn make(control: &Control, shard: ShardId) -> bool {
    let mut source = control;
    if are_made(&mut source, shard).await == Ok(true) {
        return true;
    }
    // One string is one transaction: the lock ends with it.
    match control.rows(&functions(shard)).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(shard = shard.0, %error, "sluice.unique_id() could not be made");
            false
        }
    }
}

fn mark(shard: ShardId) -> String {
    format!("pgsluice {VERSION}, shard {shard}")
}

fn functions(shard: ShardId) -> String {
    let mark = mark(shard);
    format!(
        "SELECT pg_advisory_xact_lock(hashtext('sluice.decision'));
CREATE SCHEMA IF NOT EXISTS sluice;
GRANT USAGE ON SCHEMA sluice TO PUBLIC;
CREATE SEQUENCE IF NOT EXISTS sluice.unique_clock MAXVALUE 72057594037927935;
CREATE OR REPLACE FUNCTION sluice.unique_id() RETURNS bigint LANGUAGE plpgsql VOLATILE
PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog AS $body$
DECLARE
    made bigint;
    time bigint := (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1735689600000) << 15;
BEGIN
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('sluice.unique_id'));
        made := nextval('sluice.unique_clock');
        IF made < time THEN
            made := setval('sluice.unique_clock', time);
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'SL001';
    EXCEPTION WHEN SQLSTATE 'SL001' THEN
    END;
    RETURN ((made >> 15) << 22) | ({shard}::bigint << 15) | (made & 32767);
END $body$;
COMMENT ON FUNCTION sluice.unique_id() IS '{mark}';
CREATE OR REPLACE FUNCTION sluice.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE
PARALLEL SAFE SET search_path = pg_catalog AS $body$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
        substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$body$"
    )
}
