//! Whether the server can do what we need of it, asked before anything is created there.
//!
//! Invariant: changes nothing. What a person must change first is definite, with the statement to
//! run; a server that is starting up, failing over or away is transient. `open` runs these checks
//! once a process in full, and lightly at each reconnect.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::ident::quote_ident;
use super::sql;
use crate::failure::{Failure, Kind};

/// The oldest major version that we test against, as `server_version_num`.
const OLDEST: i32 = 140_000;

/// What was found, as far as it decides something later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`: 150018 is 15.18.
    pub version: i32,
    /// The database connected to.
    pub database: String,
}

/// How strictly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At the first start: what does not fit now was configured wrongly.
    First,
    /// After a connection was lost: a server may be a standby for a while, in the middle of a failover.
    Again,
}

#[derive(Debug)]
struct Facts {
    version: i32,
    wal_level: String,
    in_recovery: bool,
    user: String,
    database: String,
    may_replicate: bool,
    managed: Option<&'static str>,
}

/// Version, `wal_level`, role, and that it is no standby.
///
/// # Errors
/// Definite for what needs a person, transient when the server can't answer.
pub async fn check(client: &Client, look: Look) -> Result<Server, Failure> {
    let facts = facts(client).await.map_err(|error| sql_failure("asking the server for its settings", &error))?;
    judge(&facts, look)?;
    Ok(Server { version: facts.version, database: facts.database })
}

async fn facts(client: &Client) -> Result<Facts, tokio_postgres::Error> {
    // Amazon's servers give no REPLICATION attribute, but membership in this role.
    let sql = "\
        SELECT current_setting('server_version_num')::int4, current_setting('wal_level'), pg_is_in_recovery(), \
               current_user::text, current_database()::text, \
               r.rolsuper OR r.rolreplication OR COALESCE(pg_has_role(m.oid, 'MEMBER'), false), \
               m.oid IS NOT NULL, EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloudsqladmin') \
        FROM pg_roles r LEFT JOIN pg_roles m ON m.rolname = 'rds_replication' WHERE r.rolname = current_user";
    let row = client.query_one(sql, &[]).await?;
    let (amazon, google): (bool, bool) = (row.try_get(6)?, row.try_get(7)?);
    let managed = amazon.then_some("rds_replication").or(google.then_some("cloudsqladmin"));
    Ok(Facts {
        version: row.try_get(0)?,
        wal_level: row.try_get(1)?,
        in_recovery: row.try_get(2)?,
        user: row.try_get(3)?,
        database: row.try_get(4)?,
        may_replicate: row.try_get(5)?,
        managed,
    })
}

fn judge(facts: &Facts, look: Look) -> Result<(), Failure> {
    if facts.version < OLDEST {
        let found = format!("{}.{}", facts.version / 10_000, facts.version % 10_000);
        let error = anyhow!("the server is PostgreSQL {found}; pgsluice needs 14 or newer");
        return Err(Failure::definite(Kind::Source, error, "Upgrade the server."));
    }
    if facts.in_recovery {
        let error = anyhow!("the server is a standby (in recovery), which cannot hold pgsluice's slot");
        let hint = "Let `source.url` lead to the primary; it may list several hosts, and the primary is found.";
        return Err(match look {
            Look::First => Failure::definite(Kind::Source, error, hint),
            Look::Again => Failure::transient(error),
        });
    }
    if facts.wal_level != "logical" {
        let error = anyhow!("the server's wal_level is {}; logical replication needs logical", facts.wal_level);
        let hint = match facts.managed {
            Some("rds_replication") => {
                "Set rds.logical_replication = 1 in the parameter group, then reboot the instance."
            }
            Some(_) => "Set the flag cloudsql.logical_decoding = on, which restarts the instance.",
            None => {
                "Run ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL. (Managed services have a setting of \
                 their own: rds.logical_replication, cloudsql.logical_decoding, …)"
            }
        };
        return Err(Failure::definite(Kind::Source, error, hint));
    }
    if !facts.may_replicate {
        let user = quote_ident(&facts.user);
        let error = anyhow!("the role {user} may not use replication: it has no REPLICATION attribute");
        let hint = match facts.managed {
            Some("rds_replication") => format!("Run GRANT rds_replication TO {user};"),
            _ => format!("As a superuser, run ALTER ROLE {user} REPLICATION;"),
        };
        return Err(Failure::definite(Kind::Source, error, hint));
    }
    Ok(())
}

/// All replication slots are used up: names them.
///
/// # Errors
/// Never returns anything else than a failure; it is transient when the server can't answer.
pub async fn no_free_slot(client: &Client, slot: &str) -> Failure {
    let sql = "SELECT current_setting('max_replication_slots'), \
                      COALESCE(string_agg(format('%s (%s)', slot_name, CASE WHEN active THEN 'active' ELSE 'inactive' END), \
                               ', ' ORDER BY slot_name), 'none') FROM pg_replication_slots";
    match two_texts(client, sql).await {
        Err(error) => sql_failure("listing the replication slots", &error),
        Ok((limit, used)) => Failure::definite(
            Kind::Source,
            anyhow!("no replication slot is free for \"{slot}\": max_replication_slots is {limit}, and used by {used}"),
            "Drop a slot that nobody needs (SELECT pg_drop_replication_slot('…')), or raise max_replication_slots and \
             restart PostgreSQL.",
        ),
    }
}

/// All walsenders are used up: names them. `None` when they are not, so that the refusal has another reason.
///
/// # Errors
/// Transient when the server can't answer.
pub async fn no_free_walsender(client: &Client) -> Result<Option<Failure>, Failure> {
    let doing = "listing the walsenders";
    let sql = "SELECT current_setting('max_wal_senders'), COALESCE(string_agg(format('PID %s (user %s, %s)', pid, usename, \
                      COALESCE(NULLIF(application_name, ''), 'unknown application')), ', ' ORDER BY pid), ''), count(*) \
               FROM pg_stat_replication";
    let row = client.query_one(sql, &[]).await.map_err(|error| sql_failure(doing, &error))?;
    let read = || Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (limit, used, count): (String, String, i64) = read().map_err(|error| sql_failure(doing, &error))?;
    if limit.parse::<i64>().is_ok_and(|limit| count < limit) {
        return Ok(None);
    }
    let used = if used.is_empty() { "nobody".to_owned() } else { used };
    Ok(Some(Failure::definite(
        Kind::Source,
        anyhow!("no walsender is free: max_wal_senders is {limit}, and they are used by {used}"),
        "Stop a replication client that nobody needs, or raise max_wal_senders and restart PostgreSQL.",
    )))
}

async fn two_texts(client: &Client, sql: &str) -> Result<(String, String), tokio_postgres::Error> {
    let row = client.query_one(sql, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Sorts what an ordinary statement fails with, as `sql` does for all, and says what it was for.
pub(crate) fn sql_failure(doing: &str, error: &tokio_postgres::Error) -> Failure {
    sql::failure(error).context(doing.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            version: 150_018,
            wal_level: "logical".to_owned(),
            in_recovery: false,
            user: "App".to_owned(),
            database: "shop".to_owned(),
            may_replicate: true,
            managed: None,
        }
    }

    fn refused(facts: &Facts, parts: &[&str]) {
        let Err(Failure::Definite(error)) = judge(facts, Look::First) else { panic!("{facts:?} is refused") };
        assert_eq!(error.kind, Kind::Source);
        let text = format!("{error}\nhint: {}", error.hint);
        for part in parts {
            assert!(text.contains(part), "`{part}` in: {text}");
        }
    }

    #[test]
    fn a_server_that_fits_passes() {
        assert!(judge(&facts(), Look::First).is_ok());
    }

    #[test]
    fn an_old_server_is_named_by_its_version() {
        refused(&Facts { version: 130_011, ..facts() }, &["PostgreSQL 13.11", "14 or newer"]);
    }

    #[test]
    fn the_hint_fits_the_service() {
        let level = Facts { wal_level: "replica".to_owned(), ..facts() };
        refused(&level, &["wal_level is replica", "ALTER SYSTEM SET wal_level = logical", "restart"]);
        let level = Facts { managed: Some("rds_replication"), ..level };
        refused(&level, &["rds.logical_replication"]);
        refused(&Facts { managed: Some("cloudsqladmin"), ..level }, &["cloudsql.logical_decoding"]);
        let role = Facts { may_replicate: false, ..facts() };
        refused(&role, &["\"App\"", "ALTER ROLE \"App\" REPLICATION"]);
        refused(&Facts { managed: Some("rds_replication"), ..role }, &["GRANT rds_replication TO \"App\""]);
    }

    #[test]
    fn a_standby_is_wrong_at_first_and_a_matter_of_time_later() {
        let standby = Facts { in_recovery: true, ..facts() };
        refused(&standby, &["standby", "primary"]);
        assert!(matches!(judge(&standby, Look::Again), Err(Failure::Transient(_))));
    }
}
