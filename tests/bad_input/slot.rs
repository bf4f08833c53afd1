//! A slot that no longer fits the checkpoint: changes may be missing, and which is said.

use super::checkpoint::{move_away, read, stopped};
use super::{commit, refused, says};
use crate::support::{SOON, Scene};

fn slot_sql(scene: &Scene, call: &str) -> String {
    format!("SELECT {}", call.replace('$', &format!("'{}'", scene.database.name())))
}

#[tokio::test]
async fn a_slot_that_is_gone() {
    let scene = stopped().await;
    let from = read(&scene).flushed;
    scene.database.execute(&slot_sql(&scene, "pg_drop_replication_slot($)")).await;
    // However often it is started: nothing is created that would look right.
    for _ in 0..2 {
        let message = refused(&scene, &[], 5).await;
        let what = format!("error: replication slot \"{}\" does not exist (any more)", scene.database.name());
        says(&message, &[&what, &format!("Changes committed between {from} and "), " may be missing."]);
        says(
            &message,
            &["hint: The slot was dropped, or did not come along in a failover", "pgsluice checkpoint reset"],
        );
    }
    move_away(&scene);
    let _process = super::streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["id"], 3, "anew, as a human has decided");
}

#[tokio::test]
async fn a_slot_that_is_ahead_of_the_checkpoint() {
    let scene = stopped().await;
    let from = read(&scene).flushed;
    scene.database.execute(&slot_sql(&scene, "pg_replication_slot_advance($, pg_current_wal_lsn())")).await;
    let to = scene
        .database
        .query_one(&slot_sql(&scene, "confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $"))
        .await;
    for _ in 0..2 {
        let message = refused(&scene, &[], 5).await;
        let what = format!("error: replication slot \"{}\" is ahead of the checkpoint", scene.database.name());
        says(
            &message,
            &[
                &what,
                &format!("Changes committed between {from} and {to} may be missing."),
                "hint: Somebody else read from the slot",
            ],
        );
    }
    move_away(&scene);
    let _process = super::streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["id"], 3, "anew, as a human has decided");
}
