//! The SQL for a role with the least privileges: it may read the stream of the publication, and no table.
//!
//! The publication is made here too, by who owns the tables, so that the role needs neither ownership nor CREATE.

use std::fmt::Write as _;

use super::Found;
use crate::postgres::ident::quote_ident;
use crate::postgres::inventory::Service;

impl Found<'_> {
    /// As a script for psql.
    pub(super) fn sql(&self) -> String {
        let service = self.arguments.service.unwrap_or(self.inventory.service);
        let [role, database, publication] =
            [&self.arguments.role, &self.inventory.database, &self.name].map(|name| quote_ident(name));
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(text, "-- Written by `pgsluice init --sql`: the least that a role of its own needs.");
        let _ = writeln!(text, "-- Run it in database {database}, as {}.", runs_as(service));
        let _ = writeln!(text, "\n{}", role_statements(service, &role));
        let _ = writeln!(text, "GRANT CONNECT ON DATABASE {database} TO {role};");
        let _ = writeln!(text, "-- A password, in psql: \\password {}", self.arguments.role);
        let tables: Vec<String> = self.selected().iter().map(|table| format!("ONLY {}", table.quoted())).collect();
        let of = if tables.is_empty() { String::new() } else { format!(" FOR TABLE\n  {}\n ", tables.join(",\n  ")) };
        let generated = if self.inventory.version >= 180_000 { ", publish_generated_columns = stored" } else { "" };
        let _ = writeln!(
            text,
            "\n-- What is sent. A table that is selected later joins while no transaction that has written to it is open:\n\
             -- BEGIN; SET LOCAL statement_timeout = '500ms'; LOCK TABLE … IN SHARE ROW EXCLUSIVE MODE;\n\
             -- ALTER PUBLICATION {publication} ADD TABLE …; COMMIT;"
        );
        let _ =
            writeln!(text, "CREATE PUBLICATION {publication}{of} WITH (publish_via_partition_root = true{generated});");
        let left = self.inventory.tables.iter().filter(|table| {
            !table.has_identity && (self.inventory.outboxes.is_empty() || self.outbox_of(table).is_some())
        });
        for table in left {
            let _ = writeln!(
                text,
                "-- Not {}: without a primary key PostgreSQL would refuse UPDATE and DELETE on it. Before it is added:\n\
                 -- ALTER TABLE {} REPLICA IDENTITY FULL;",
                table.quoted(),
                table.quoted()
            );
        }
        let _ = writeln!(text, "\n-- Only where the configuration has it:");
        for table in self.inventory.tables.iter().filter(|table| self.outbox_of(table).is_some()) {
            let (schema, table) = (quote_ident(&table.schema), table.quoted());
            let _ = writeln!(
                text,
                "-- outbox.cleanup.enabled: GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, DELETE ON {table} TO {role};"
            );
            let _ = writeln!(
                text,
                "-- pgsluice replay --from-table: GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {table} TO {role};"
            );
        }
        let _ = writeln!(
            text,
            "-- checkpoint.store = \"postgres\": CREATE SCHEMA pgsluice AUTHORIZATION {role}; and checkpoint.table in it."
        );
        let _ = writeln!(text, "\n-- The server's setting:\n{}", setting(service, &self.inventory.wal_level));
        text
    }
}

fn runs_as(service: Service) -> &'static str {
    match service {
        Service::SelfHosted => "a superuser",
        Service::Rds => "the master user, who owns the tables or is a member of their owner",
        Service::CloudSql => "a user with cloudsqlsuperuser who owns the tables or is a member of their owner",
        Service::Azure => "the server's administrator, who owns the tables or is a member of their owner",
        Service::Supabase => "postgres",
        Service::Neon => "the owner of the database",
    }
}

fn role_statements(service: Service, role: &str) -> String {
    match service {
        Service::SelfHosted | Service::CloudSql | Service::Supabase => format!("CREATE ROLE {role} LOGIN REPLICATION;"),
        Service::Rds => format!("CREATE ROLE {role} LOGIN;\nGRANT rds_replication TO {role};"),
        Service::Azure => format!(
            "-- The administrator may give what it has: ALTER ROLE <administrator> REPLICATION; comes first.\n\
             CREATE ROLE {role} LOGIN REPLICATION;"
        ),
        Service::Neon => format!(
            "-- Create {role} in the Console, by the CLI or the API: only such roles have REPLICATION, which SQL can't give here."
        ),
    }
}

fn setting(service: Service, wal_level: &str) -> String {
    let how = match service {
        Service::SelfHosted => "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL.",
        Service::Rds => "rds.logical_replication = 1 in the parameter group, then reboot the instance.",
        Service::CloudSql => "the flag cloudsql.logical_decoding = on, which restarts the instance.",
        Service::Azure => "the server parameter wal_level = logical, then restart the server.",
        Service::Supabase => {
            "wal_level is logical already. Connect directly (db.<project>.supabase.co), not through the pooler, \
             which can't replicate; it takes IPv6, or the IPv4 add-on."
        }
        Service::Neon => {
            "Logical replication is enabled in the project's settings, for good. Connect without -pooler in the host's name."
        }
    };
    format!("-- wal_level is {wal_level} now, and must be logical.\n-- {how}")
}
