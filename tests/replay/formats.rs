//! Events come again byte for byte in each format.

use super::{A_DAY, ALL_KINDS, EVENTS, assert_same, done, now, replay_with};
use crate::support::{SOON, Scene};

#[tokio::test]
async fn changes_come_again_byte_for_byte_in_each_format() {
    for format in ["raw", "cloudevents", "cloudevents-binary", "debezium", "debezium-schema", "canal"] {
        let scene = Scene::new().await;
        let more = format!("[changes]\nformat = \"{format}\"\n");
        let _running = scene.run_with(&format!("{A_DAY}{more}")).await;
        let from = now(&scene).await;
        scene.database.client().await.batch_execute(ALL_KINDS).await.expect("all kinds");
        let first = scene.vhost.consume("all", EVENTS, SOON).await;
        done(replay_with(&scene, &more, &["--from", &from])).await;
        assert_same(&first, &scene.vhost.consume("all", EVENTS, SOON).await);
    }
}

/// Of the commit a row of the table knows nothing, so that nothing of it is in the body.
#[tokio::test]
async fn an_outbox_has_the_same_cloud_events_from_the_slot_and_from_the_table() {
    for format in ["cloudevents", "cloudevents-binary"] {
        let scene = Scene::new().await;
        let more =
            format!("[outbox]\ntable = \"public.outbox\"\nformat = \"{format}\"\n[replay]\nretain_ms = 86400000\n");
        let config = scene.config(&more).replacen("[outbox]\ntable = \"public.outbox\"\n", "", 1);
        let running = crate::support::pgsluice(&config);
        running.wait_for_log("streaming from PostgreSQL", SOON).await;
        let from = now(&scene).await;
        let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES \
                      ('Order', '7', 'Placed', '{\"a\": [1.50]}'), ('Order', '', 'Empty', NULL)";
        scene.database.execute(insert).await;
        let first = scene.vhost.consume("all", 2, SOON).await;
        for arguments in [&["--from", &from][..], &["--from-table"]] {
            let file = crate::support::folder("replay").join("pgsluice.toml");
            std::fs::write(&file, &config).expect("write the configuration");
            let mut all = vec!["replay", "--config", file.to_str().expect("text")];
            all.extend(arguments);
            done(crate::support::pgsluice_command(&all, &[])).await;
            let again = scene.vhost.consume("all", 2, SOON).await;
            for first in &first {
                let again = again.iter().find(|again| again.message_id == first.message_id).expect("comes again");
                assert_eq!(
                    (first.text(), first.properties.content_type()),
                    (again.text(), again.properties.content_type())
                );
                let attributes = |delivery: &crate::support::Delivery| {
                    let headers = delivery.headers.clone().into_iter();
                    headers.filter(|(name, _)| name.starts_with("cloudEvents:")).collect::<Vec<_>>()
                };
                assert_eq!(attributes(first), attributes(again));
            }
        }
    }
}
