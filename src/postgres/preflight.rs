//! Whether the server can do what we need of it, asked before anything is created there.
//!
//! Invariant: changes nothing. What a person must change first is definite, with the statement to
//! run; a server that is starting up, failing over or away is transient. `open` runs these checks
//! once a process in full, and lightly at each reconnect.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::ident::quote_ident;
use super::sql;
use crate::failure::{Definite, Failure, Kind};

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

/// Version, `wal_level`, role, that it is no standby and does not take us for one.
///
/// # Errors
/// Definite for what needs a person, transient when the server can't answer.
pub async fn check(client: &Client, look: Look) -> Result<Server, Failure> {
    let facts = facts(client).await.map_err(|error| sql_failure("asking the server for its settings", &error))?;
    judge(&facts, look)?;
    match (taken_for_standby(client).await?, look) {
        (None, _) => {}
        (Some(definite), Look::First) => return Err(definite.into()),
        // Whoever manages a cluster may set it for a while.
        (Some(definite), Look::Again) => return Err(Failure::Transient(definite.error)),
    }
    Ok(Server { version: facts.version, database: facts.database })
}

/// PostgreSQL takes any walsender for a synchronous standby whose `application_name` fits, one of pgsluice too. Why it does so of
/// ours, if it does.
///
/// # Errors
/// When the server can't answer.
pub(super) async fn taken_for_standby(client: &Client) -> Result<Option<Definite>, Failure> {
    let sql = "SELECT current_setting('synchronous_standby_names'), current_setting('application_name')";
    let settings = two_texts(client, sql).await;
    let (setting, ours) = settings.map_err(|error| sql_failure("asking the server for its standbys", &error))?;
    let names = synchronous_standbys(&setting);
    let hint = if names.iter().any(|name| name == "*") {
        "Name the standbys: ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby_1, standby_2)'; then SELECT \
         pg_reload_conf(); (`application_name` in pg_stat_replication is what each is called)."
    } else if names.iter().any(|name| name.eq_ignore_ascii_case(&ours)) {
        "Give pgsluice another `application_name` in `source.url`, or take that name out of synchronous_standby_names."
    } else {
        return Ok(None);
    };
    let error = anyhow!(
        "synchronous_standby_names is {setting}, which makes pgsluice (application_name {ours}) a synchronous standby: commits \
         would wait for RabbitMQ, and then count as replicated though no standby has them"
    );
    Ok(Some(Definite::new(Kind::Source, error, hint)))
}

/// The names in `synchronous_standby_names`, unquoted: `a, b`, `2 (a, b)`, `FIRST 2 (a, "b")`, `ANY 1 (*)`.
fn synchronous_standbys(setting: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = setting.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => quoted = !quoted,
            _ if quoted => name.push(char),
            // It was the method, and how many.
            '(' => name.clear(),
            ',' => names.push(std::mem::take(&mut name)),
            ')' => {}
            _ if char.is_ascii_whitespace() => {}
            _ => name.push(char),
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
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
    fn standbys_are_named_with_and_without_a_method() {
        for (setting, names) in [
            ("", vec![]),
            ("*", vec!["*"]),
            ("a, B ,c_1", vec!["a", "B", "c_1"]),
            ("2 (a,b)", vec!["a", "b"]),
            ("FIRST 1 (a)", vec!["a"]),
            ("any 2(a, \"b (1), \"\"x\"\"\", *)", vec!["a", "b (1), \"x\"", "*"]),
        ] {
            assert_eq!(synchronous_standbys(setting), names, "{setting}");
        }
    }

    #[test]
    fn a_standby_is_wrong_at_first_and_a_matter_of_time_later() {
        let standby = Facts { in_recovery: true, ..facts() };
        refused(&standby, &["standby", "primary"]);
        assert!(matches!(judge(&standby, Look::Again), Err(Failure::Transient(_))));
    }
}
