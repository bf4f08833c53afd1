//! Databases in other encodings than UTF-8: the walsender converts, and ends the stream at what it can't convert.

use serde_json::Value;

use super::rows;
use crate::bad_input::{ended, says, start, streaming};
use crate::support::{Process, SOON, Scene, eventually, postgres, rabbitmq};

/// So many of the characters at least that are in it, whatever the version of PostgreSQL.
const ENCODINGS: &[(&str, usize)] = &[
    ("LATIN1", 255),
    ("LATIN9", 255),
    ("WIN1252", 250),
    ("WIN1251", 254),
    ("KOI8R", 255),
    ("EUC_JP", 6000),
    ("EUC_JIS_2004", 6000),
    ("EUC_KR", 6000),
    ("EUC_CN", 6000),
    ("EUC_TW", 6000),
    ("SQL_ASCII", 127),
];

/// Characters of the Basic Multilingual Plane that PostgreSQL itself converts to an encoding and back.
const CHARACTERS: &str = "
    CREATE FUNCTION pg_temp.characters(encoding name) RETURNS SETOF text LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN 1..65535 LOOP
            CONTINUE WHEN n BETWEEN 55296 AND 57343;
            BEGIN
                PERFORM convert_from(convert_to(chr(n), encoding), encoding);
                RETURN NEXT chr(n);
            EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
            END;
        END LOOP;
    END $$";

async fn scene_in(encoding: &str) -> Scene {
    Scene::of(postgres().database_in(encoding).await, rabbitmq().vhost(), &[]).await
}

async fn characters_of(encoding: &str) -> Vec<String> {
    if encoding == "SQL_ASCII" {
        return ('\u{1}'..='\u{7f}').map(String::from).collect();
    }
    let client = postgres().database().await.client().await;
    client.batch_execute(CHARACTERS).await.expect(CHARACTERS);
    let rows = client.query("SELECT pg_temp.characters($1::text::name)", &[&encoding]).await.expect("the characters");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_character_of_other_encodings_arrives_as_utf8() {
    for (encoding, at_least) in ENCODINGS {
        let characters = characters_of(encoding).await;
        assert!(characters.len() >= *at_least, "{encoding}: {}", characters.len());
        let scene = scene_in(encoding).await;
        let client = scene.database.client().await;
        client.batch_execute("CREATE TABLE texts (id int PRIMARY KEY, t text, j json)").await.expect("create");
        let _process = streaming(&scene, &[("source.tables", "public.texts")]).await;
        let insert = client
            .prepare("INSERT INTO texts VALUES ($1, $2::text, json_build_array($2::text))")
            .await
            .expect("prepare");
        for (id, chunk) in (0..).zip(characters.chunks(500)) {
            client.execute(&insert, &[&id, &chunk.concat()]).await.expect(encoding);
        }
        // Some encodings have one character for several of Unicode's: what is read is what counts.
        let expected = rows(&client, "SELECT id, t FROM texts").await;
        let mut consumer = scene.vhost.consumer("all").await;
        for (id, text) in expected {
            let event = consumer.next(SOON).await.json();
            assert_eq!(event["after"], serde_json::json!({"id": id, "t": text, "j": [text]}), "{encoding}");
        }
    }
}

#[tokio::test]
async fn names_of_other_encodings_arrive_as_utf8() {
    for (encoding, name) in [("LATIN1", "größe"), ("EUC_JP", "名前"), ("WIN1251", "имя")] {
        let scene = scene_in(encoding).await;
        let create = format!("CREATE TABLE \"{name}\" (\"{name}\" int PRIMARY KEY)");
        scene.database.execute(&create).await;
        let _process = streaming(&scene, &[("source.tables", &format!("public.{name}"))]).await;
        scene.database.execute(&format!("INSERT INTO \"{name}\" VALUES (1)")).await;
        let delivery = &scene.vhost.consume("all", 1, SOON).await[0];
        assert_eq!(delivery.routing_key, format!("public.{name}.insert"));
        assert_eq!((&delivery.json()["table"], &delivery.json()["after"][name]), (&Value::from(name), &Value::from(1)));
    }
}

/// In `SQL_ASCII`, PostgreSQL neither knows nor verifies what bytes mean. Those that are UTF-8 go through.
#[tokio::test]
async fn utf8_in_sql_ascii_arrives() {
    let scene = scene_in("SQL_ASCII").await;
    let _process = streaming(&scene, &[]).await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES ('größe 名前 😀')").await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["filler"], "größe 名前 😀");
}

/// Commits a row before and after the one that the walsender can't send, whose message this is; and goes past it as the
/// message says.
async fn stuck_at(encoding: &str, text: &str, reason: &str) {
    let scene = scene_in(encoding).await;
    let mut process = streaming(&scene, &[]).await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES ('before')").await;
    scene.acknowledged().await;
    let before = scene.database.query_one("SELECT pg_current_wal_insert_lsn()").await;
    // In one go, so that the stream ends in the moment in which the last event is to be published.
    process.signal(rustix::process::Signal::STOP);
    scene.database.execute("INSERT INTO ledger (filler) VALUES ('just before')").await;
    scene.database.execute(&format!("INSERT INTO ledger (filler) VALUES (E'{text}')")).await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES ('after')").await;
    process.signal(rustix::process::Signal::CONT);
    let message = stopped(&scene, &mut process, &before, reason).await;
    // A restart reads it once more, and says the same.
    let mut again = start(&scene, &[]);
    assert_eq!(stopped(&scene, &mut again, &before, reason).await, message);
    let fillers = scene.vhost.consume("all", 2, SOON).await.into_iter().map(|it| it.json()["after"]["filler"].clone());
    assert_eq!(fillers.collect::<Vec<_>>(), ["before", "just before"]);
    assert_eq!(scene.vhost.depth("all").await, 0, "what was confirmed before the end is not repeated");

    let behind = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    let config = process.config_path();
    let set = ["checkpoint", "set", &behind, "--skip", "--config", config.to_str().expect("text")];
    let (code, output) = crate::support::pgsluice_command(&set, &[]).wait(SOON).await;
    assert_eq!(code, Some(0), "{output}");
    let _process = streaming(&scene, &[]).await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES ('later')").await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["filler"], "later");
}

/// The message names the range: from the checkpoint to the change.
async fn stopped(scene: &Scene, process: &mut Process, before: &str, reason: &str) -> String {
    let message = ended(process, 3).await;
    let checkpoint = ::pgsluice::checkpoint::file::read(&scene.checkpoint()).expect("is whole").expect("is there");
    let from = format!("error: can't read the changes that were committed after {}", checkpoint.flushed);
    says(
        &message,
        &[&from, reason, ", at the change at ", "hint: no start gets past this change", "checkpoint set LSN --skip"],
    );
    let change = message.split_once("at the change at ").expect("an LSN").1.lines().next().expect("a line");
    let is_it = format!("SELECT '{change}'::pg_lsn >= '{before}' AND '{change}'::pg_lsn < pg_current_wal_insert_lsn()");
    eventually("the change is the bad one", SOON, async || {
        (scene.database.query_one(&is_it).await == "t").then_some(())
    })
    .await;
    message
}

#[tokio::test]
async fn bytes_in_sql_ascii_that_are_no_utf8_end_the_stream_with_one_message() {
    stuck_at("SQL_ASCII", r"\xff\xfe", "invalid byte sequence for encoding \"UTF8\": 0xff (SQLSTATE 22021)").await;
}

#[tokio::test]
async fn a_character_that_unicode_does_not_have_ends_the_stream_with_one_message() {
    stuck_at("EUC_JP", r"\xa9\xa1", "has no equivalent in encoding \"UTF8\" (SQLSTATE 22P05)").await;
}
