//! Refusals: what, why and what to do instead.

use crate::error::PgError;

/// How to name one tenant.
pub(super) const ONE_TENANT: &str =
    "Add a condition on the tenant column (tenant = …) to WHERE, or SET sluice.tenant.";

/// A construct that has no exact answer over several shards.
pub(super) fn over_shards(what: &str, detail: impl Into<String>) -> PgError {
    PgError::refused(format!("{what} over several shards is not supported"))
        .detail(detail)
        .hint(ONE_TENANT)
}

/// A function that may reach other tenants' rows.
pub(super) fn function(name: &str) -> PgError {
    PgError::refused(format!("function {name} may read or write rows of other shards"))
        .detail("It is not known to be free of table access, and it would see one shard only.")
        .hint("List it in trusted_functions if it touches no rows of other tenants, or SET sluice.tenant.")
}

/// A value that each shard would compute for itself.
pub(super) fn not_immutable(what: &str) -> PgError {
    over_shards(what, "Each shard would compute another value.")
        .hint("Pass the value as a parameter, or name one tenant.")
}
