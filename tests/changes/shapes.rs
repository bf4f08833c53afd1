//! Names that are hard to write, tables of 1,600 columns and of none, several schemas, inheritance.

use serde_json::{Value, json};

use super::{ALL, Changes, told};

/// 63 bytes, of which a character takes two, three and four.
const LONGEST: [&str; 3] = [
    "ßßßßßßßßßßßßßßßßßßßßßßßßßßßßßßß!",
    "漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢",
    "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀abc",
];
const ODD: [&str; 8] =
    ["a \"quoted\"", "with.dots.", " space ", "😀", "\\back'slash", "UPPER", "select", "new\nline\ttab"];

#[tokio::test]
async fn names_come_as_the_catalog_has_them() {
    let names: Vec<&str> = ODD.into_iter().chain(LONGEST).collect();
    assert!(LONGEST.iter().all(|name| name.len() == 63));
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut setup = String::new();
    let mut table = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let (schema, name, column) =
            (quoted(names[(index + 1) % names.len()]), quoted(name), quoted(names[(index + 2) % names.len()]));
        let create =
            format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.{name} ({column} int PRIMARY KEY, {name} text);");
        setup += &create;
        table.push((format!("{schema}.{name}"), column, name));
    }
    for publication in ["", ALL] {
        let mut changes = Changes::after(&format!("{setup}{publication}")).await;
        for (table, key, column) in &table {
            changes
                .run(&format!(
                    "INSERT INTO {table} VALUES (1, 'x'); UPDATE {table} SET {column} = 'y'; UPDATE {table} SET {key} = 2;
                     TRUNCATE {table}; ALTER TABLE {table} REPLICA IDENTITY FULL; INSERT INTO {table} VALUES (1, 'x');
                     UPDATE {table} SET {column} = 'y'; DELETE FROM {table}"
                ))
                .await;
        }
        let events = changes.judged().await;
        assert_eq!(events.len(), 7 * names.len());
    }
}

#[tokio::test]
async fn the_same_name_in_several_schemas_is_several_tables() {
    let mut changes = Changes::after(
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.t (id int PRIMARY KEY, a text);
         CREATE TABLE two.t (a int, id text PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)",
    )
    .await;
    let events = changes
        .fits(
            "BEGIN; INSERT INTO one.t VALUES (1, 'x'); INSERT INTO two.t VALUES (1, 'x'); INSERT INTO t VALUES (1);
             UPDATE one.t SET a = 'y'; UPDATE two.t SET id = 'y'; DELETE FROM t; COMMIT; SET search_path = two;
             DELETE FROM t; RESET search_path; TRUNCATE one.t, two.t",
        )
        .await;
    assert_eq!(
        told(&events[..3]),
        [r#"insert one.t {"a":"x","id":1}"#, r#"insert two.t {"a":1,"id":"x"}"#, r#"insert public.t {"id":1}"#]
    );
}

/// A table has at most 1,600 columns; those that were dropped count.
#[tokio::test]
async fn a_table_of_1600_columns_comes_in_whole() {
    let columns = |from: usize, to: usize| (from..=to).map(|n| format!("c{n} int")).collect::<Vec<_>>().join(", ");
    let mut changes = Changes::after(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); CREATE TABLE whole ({}); ALTER TABLE whole REPLICA IDENTITY FULL",
        columns(2, 1600),
        columns(1, 1600)
    ))
    .await;
    let said = changes.refused("ALTER TABLE wide ADD c1601 int").await;
    assert!(said.contains("at most 1600 columns"), "{said}");
    let some = (2..=1600).step_by(7).map(|n| format!("c{n} = {n}")).collect::<Vec<_>>().join(", ");
    let all = (1..=1600).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let events = changes
        .fits(&format!(
            "INSERT INTO wide VALUES (1); UPDATE wide SET {some}; UPDATE wide SET id = 2; DELETE FROM wide;
             INSERT INTO whole VALUES ({all}); UPDATE whole SET c1600 = NULL, c7 = 0; DELETE FROM whole;
             BEGIN; ALTER TABLE whole DROP c800; INSERT INTO whole VALUES (1); DELETE FROM whole; COMMIT"
        ))
        .await;
    let columns = |event: &Value, row: &str| event[row].as_object().map(serde_json::Map::len);
    assert_eq!((columns(&events[0], "after"), columns(&events[4], "after")), (Some(1600), Some(1600)));
    assert_eq!((columns(&events[5], "before"), &events[5]["changed"]), (Some(1600), &json!(["c7", "c1600"])));
    assert_eq!(columns(&events[7], "after"), Some(1599));
}

#[tokio::test]
async fn a_table_without_columns_has_rows_too() {
    let mut changes = Changes::after(
        "CREATE TABLE none (); ALTER TABLE none REPLICA IDENTITY FULL; CREATE TABLE lost (a int); ALTER TABLE lost DROP a",
    )
    .await;
    let events = changes
        .fits(
            "INSERT INTO none DEFAULT VALUES; DELETE FROM none; INSERT INTO lost DEFAULT VALUES; TRUNCATE none, lost;
             BEGIN; INSERT INTO none DEFAULT VALUES; ALTER TABLE none ADD a int; UPDATE none SET a = 1;
             ALTER TABLE none DROP a; DELETE FROM none; COMMIT",
        )
        .await;
    let rows: Vec<_> = events.iter().map(|event| json!([event["before"], event["after"], event["changed"]])).collect();
    assert_eq!(json!(&rows[..3]), json!([[null, {}, null], [{}, null, null], [null, {}, null]]));
    assert_eq!(json!(&rows[5..]), json!([[null, {}, null], [{"a": null}, {"a": 1}, ["a"]], [{}, null, null]]));
}

/// A child is a table of its own: its rows come under its name, with its columns, if it is selected.
#[tokio::test]
async fn rows_of_inheritance_children_are_the_childs() {
    const TABLES: &str = "
        CREATE TABLE parent (id int PRIMARY KEY, a text); CREATE TABLE child (b int, PRIMARY KEY (id)) INHERITS (parent);
        CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child); CREATE TABLE judge.hidden (PRIMARY KEY (id)) INHERITS (parent);";
    for publication in ["", ALL] {
        let mut changes = Changes::after(&format!("{TABLES}{publication}")).await;
        let events = changes
            .fits(
                "INSERT INTO parent VALUES (1, 'x'); INSERT INTO child VALUES (2, 'x', 2);
                 INSERT INTO grandchild VALUES (3, 'x', 3); INSERT INTO judge.hidden VALUES (4, 'x');
                 BEGIN; UPDATE parent SET a = 'y'; UPDATE ONLY parent SET a = 'z'; UPDATE child SET b = 9; DELETE FROM ONLY child;
                 ALTER TABLE parent ADD c int DEFAULT 7; INSERT INTO grandchild VALUES (5, 'x', 5); COMMIT; TRUNCATE ONLY parent;
                 DELETE FROM parent",
            )
            .await;
        assert_eq!(
            told(&events),
            [
                r#"insert public.parent {"a":"x","id":1}"#,
                r#"insert public.child {"a":"x","b":2,"id":2}"#,
                r#"insert public.grandchild {"a":"x","b":3,"id":3}"#,
                r#"update public.parent {"a":"y","id":1}"#,
                r#"update public.child {"a":"y","b":2,"id":2}"#,
                r#"update public.grandchild {"a":"y","b":3,"id":3}"#,
                r#"update public.parent {"a":"z","id":1}"#,
                r#"update public.child {"a":"y","b":9,"id":2}"#,
                r#"update public.grandchild {"a":"y","b":9,"id":3}"#,
                r#"delete public.child {"id":2}"#,
                r#"insert public.grandchild {"a":"x","b":5,"c":7,"id":5}"#,
                "truncate public.parent null",
                r#"delete public.grandchild {"id":3}"#,
                r#"delete public.grandchild {"id":5}"#
            ]
        );
    }
}
