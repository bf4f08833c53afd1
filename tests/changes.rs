//! Whatever happens to a row or to its table, the event says what PostgreSQL says: held, change by change, against what a
//! trigger wrote down when it happened.

mod filters;
mod generated;
mod identity;
mod partitions;
mod schema;
mod scripts;
mod shapes;
mod truncate;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::support::{Consumer, Database, Process, SOON, Vhost, folder, pgsluice, postgres, rabbitmq};

/// Every row that is changed is noted by a trigger, as the table is at that moment; so is every TRUNCATE of a table. A
/// table gets the triggers when it is created.
const JUDGE: &str = r"
    CREATE SCHEMA judge;
    CREATE TABLE judge.log (n bigserial PRIMARY KEY, op text, schema text, tbl text, identity text, key text[], old jsonb, new jsonb);
    CREATE FUNCTION judge.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO judge.log (op, schema, tbl, identity, key, old, new) SELECT lower(TG_OP), TG_TABLE_SCHEMA, TG_TABLE_NAME,
            CASE relreplident WHEN 'd' THEN 'default' WHEN 'i' THEN 'index' WHEN 'f' THEN 'full' ELSE 'nothing' END,
            ARRAY(SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
                  WHERE indrelid = TG_RELID
                  AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident ELSE false END),
            CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END,
            CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END FROM pg_class WHERE oid = TG_RELID;
        RETURN NULL;
    END $$;
    CREATE FUNCTION judge.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE created oid; BEGIN
        FOR created IN SELECT DISTINCT objid FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table'
            AND schema_name <> 'judge' AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = objid AND tgname = 'judge')
        LOOP
            EXECUTE format('CREATE TRIGGER judge AFTER INSERT OR UPDATE OR DELETE ON %s
                            FOR EACH ROW EXECUTE FUNCTION judge.note()', created::regclass);
            EXECUTE format('CREATE TRIGGER judge_truncate AFTER TRUNCATE ON %s
                            FOR EACH STATEMENT EXECUTE FUNCTION judge.note()', created::regclass);
        END LOOP;
    END $$;
    CREATE EVENT TRIGGER judge ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION judge.watch();
    CREATE SCHEMA mark;
    CREATE TABLE mark.mark (n int);";

/// A publication that an administrator made, of whatever is there.
pub(crate) const ALL: &str = "CREATE PUBLICATION shop FOR ALL TABLES;";

/// A database, and pgsluice that sends everything of it but what the judge writes.
pub(crate) struct Changes {
    pub(crate) database: Database,
    pub(crate) process: Process,
    consumer: Consumer,
    /// One session, so that a transaction may span calls.
    client: tokio_postgres::Client,
    judged: i64,
    _vhost: Vhost,
}

impl Changes {
    /// From after `setup` on. Without a publication in it, pgsluice makes one.
    pub(crate) async fn after(setup: &str) -> Self {
        Self::with("", setup).await
    }

    /// With more keys of the source. The server streams what is configured to be streamed as soon as it can.
    pub(crate) async fn with(source: &str, setup: &str) -> Self {
        let database = postgres().database().await;
        database.execute(JUDGE).await;
        database.execute(setup).await;
        let vhost = rabbitmq().vhost();
        vhost.queue_on("all", "shop.changes").await;
        let process = pgsluice(&format!(
            "name = \"shop\"\n[source]\nurl = \"{}?options=-c%20logical_decoding_work_mem%3D64kB\"\n\
             tables = [\"*.*\", \"!judge.*\"]\nslot = \"{}\"\n{source}[checkpoint]\npath = \"{}\"\n[rabbitmq]\nurl = \"{}\"\n",
            database.url(),
            database.name(),
            folder("changes").join("checkpoint").display(),
            vhost.url()
        ));
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        let mut this = Self {
            consumer: vhost.consumer("all").await,
            client: database.client().await,
            database,
            process,
            judged: 0,
            _vhost: vhost,
        };
        this.log().await;
        this
    }

    /// Stops pgsluice while `sql` runs, which it reads only after that.
    pub(crate) async fn behind_its_back(&mut self, sql: &str) {
        self.stop().await;
        self.run(sql).await;
        self.restart().await;
    }

    pub(crate) async fn stop(&mut self) {
        self.process.terminate();
        let (code, log) = self.process.wait(SOON).await;
        assert_eq!(code, Some(0), "{log}");
    }

    pub(crate) async fn restart(&mut self) {
        self.process.restart();
        self.process.wait_for_log("streaming from PostgreSQL", SOON).await;
    }

    /// Each statement on its own (several in one message would be one transaction), or in the transaction that one of them
    /// opens. No text in them has a semicolon.
    pub(crate) async fn run(&self, sql: &str) {
        for sql in sql.split(';').filter(|sql| !sql.trim().is_empty()) {
            let done = self.client.batch_execute(sql).await;
            done.unwrap_or_else(|error| panic!("{error}: {:?}\n{sql}", error.as_db_error()));
        }
    }

    /// What PostgreSQL says to a statement that it refuses.
    pub(crate) async fn refused(&self, sql: &str) -> String {
        let error = self.client.batch_execute(sql).await.expect_err(sql);
        error.as_db_error().map(ToString::to_string).unwrap_or_default()
    }

    /// Everything that has come of what was run.
    pub(crate) async fn events(&mut self) -> Vec<Value> {
        self.run("INSERT INTO mark.mark VALUES (1)").await;
        let mut events = Vec::new();
        loop {
            let event = self.consumer.next(SOON).await.json();
            if event["table"] == "mark" {
                return events;
            }
            events.push(event);
        }
    }

    /// What the judge has noted since the last time.
    pub(crate) async fn log(&mut self) -> Vec<Note> {
        let sql = "SELECT n, op, schema, tbl, identity, key, old::text, new::text FROM judge.log
                   WHERE n > $1 AND schema <> 'mark' ORDER BY n";
        let rows = self.client.query(sql, &[&self.judged]).await.expect("read the log");
        let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).expect("PostgreSQL's JSON"));
        let mut notes = Vec::new();
        for row in rows {
            self.judged = row.get(0);
            let (identity, key, old, new) = (row.get(4), row.get(5), json(row.get(6)), json(row.get(7)));
            notes.push(Note { op: row.get(1), schema: row.get(2), table: row.get(3), identity, key, old, new });
        }
        notes
    }

    /// Everything that has come, of which each is what the judge noted in its place.
    pub(crate) async fn judged(&mut self) -> Vec<Value> {
        let (events, notes) = (self.events().await, self.log().await);
        let named: Vec<_> = events.iter().map(|event| format!("{} {}", event["op"], event["table"])).collect();
        assert_eq!(events.len(), notes.len(), "{named:?} for {notes:?}");
        for (event, note) in events.iter().zip(&notes) {
            note.judge(event);
        }
        events
    }

    /// Runs it, and [`Self::judged`].
    pub(crate) async fn fits(&mut self, sql: &str) -> Vec<Value> {
        self.run(sql).await;
        self.judged().await
    }
}

/// A change, as PostgreSQL saw it.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) op: String,
    pub(crate) schema: String,
    pub(crate) table: String,
    identity: String,
    key: Vec<String>,
    pub(crate) old: Option<Map<String, Value>>,
    pub(crate) new: Option<Map<String, Value>>,
}

impl Note {
    /// Holds an event against it.
    fn judge(&self, event: &Value) {
        let Self { op, schema, table, identity, key, .. } = self;
        let said = ["op", "schema", "table", "identity"].map(|field| event[field].as_str().expect("text"));
        assert_eq!(said, [op, schema, table, identity]);
        assert_eq!(names(&event["key"]), key.iter().cloned().collect());
        self.judge_rows(event);
    }

    /// Holds the rows of an event against it, under whatever name they come.
    pub(crate) fn judge_rows(&self, event: &Value) {
        let Self { op, old, new, .. } = self;
        let unchanged = names(&event["unchanged"]);
        let with_unchanged = |name: &String| unchanged.contains(name);
        match (new, event["after"].as_object()) {
            (Some(new), Some(after)) => {
                let sent: Map<_, _> = new.clone().into_iter().filter(|(name, _)| !with_unchanged(name)).collect();
                assert_eq!(&sent, after, "{event}");
            }
            (new, after) => assert_eq!((new, after), (&None, None), "{event}"),
        }
        let same = |name: &String| old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old[name] == new[name]);
        assert!(unchanged.iter().all(same), "{event} for {self:?}");

        let (is_full, key) = (event["identity"] == "full", names(&event["key"]));
        let key_differs = key.iter().any(|name| !same(name));
        let expected = match op.as_str() {
            "update" | "delete" if is_full => Some("all"),
            "delete" => Some("key"),
            "update" if key_differs => Some("key"),
            // A key that is so large that it is stored elsewhere comes along whether or not it changed.
            "update" => event["before_columns"].as_str().filter(|_| event["before"].to_string().len() > 2000),
            _ => None,
        };
        assert_eq!(event["before_columns"].as_str(), expected, "{event}");
        let before = old.clone().map(|old| old.into_iter().filter(|(name, _)| is_full || key.contains(name)).collect());
        assert_eq!(event["before"].as_object(), before.filter(|_| expected.is_some()).as_ref(), "{event}");

        let changed = (is_full && op == "update").then(|| {
            let all = new.iter().flat_map(Map::keys);
            all.filter(|name| !same(name)).cloned().collect::<BTreeSet<_>>()
        });
        assert_eq!(event["changed"].is_null(), changed.is_none(), "{event}");
        assert_eq!(names(&event["changed"]), changed.unwrap_or_default(), "{event}");
    }
}

/// A list of names; empty for null.
pub(crate) fn names(list: &Value) -> BTreeSet<String> {
    let names = list.as_array().into_iter().flatten();
    names.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// `op table after` of each event, for what a test is about.
pub(crate) fn told(events: &[Value]) -> Vec<String> {
    let row = |event: &Value| if event["after"].is_null() { event["before"].clone() } else { event["after"].clone() };
    let one = |event: &Value| {
        let [op, schema, table] =
            ["op", "schema", "table"].map(|field| event[field].as_str().expect("text").to_owned());
        format!("{op} {schema}.{table} {}", row(event))
    };
    events.iter().map(one).collect()
}
