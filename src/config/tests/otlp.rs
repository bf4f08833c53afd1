//! `[otlp]`.

use super::*;

#[test]
fn spans_go_where_they_are_told_and_no_secret_is_shown() {
    assert!(loaded(SMALLEST, &[]).otlp.is_none());
    let otlp = |lines: &str| loaded(&with("otlp", lines), &[]).otlp.expect("is on");
    for (endpoint, traces) in [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://[::1]:4318/", "https://[::1]:4318/v1/traces"),
        ("https://otlp.example/api/otlp", "https://otlp.example/api/otlp/v1/traces"),
        ("http://collector/v1/traces", "http://collector/v1/traces"),
    ] {
        assert_eq!(otlp(&format!("endpoint = \"{endpoint}\"")).traces, traces);
    }
    let all = "endpoint = \"http://c\"\ntoken = \"s3cret\"\nheaders = { x-key = \"s3cret\" }\nsample_per_million = 7";
    assert_eq!((otlp(all).headers["authorization"].to_str().ok(), otlp(all).headers.len()), (Some("Bearer s3cret"), 2));
    let shown = format!("{:?}", otlp(all));
    assert!(!shown.contains("s3cret") && shown.contains("sample_per_million: 7"), "{shown}");
    for (lines, what) in [
        ("token = \"s3cret\"", "otlp.token has no meaning without otlp.endpoint"),
        ("endpoint = \"collector:4318\"", "otlp.endpoint is no URL"),
        ("endpoint = \"ftp://c\"", "otlp.endpoint is no URL of http or https"),
        ("endpoint = \"http://\"", "otlp.endpoint is no URL"),
        ("endpoint = \"http://c/?key=s3cret\"", "otlp.endpoint has a query in it"),
        ("endpoint = \"http://u:s3cret@c\"", "otlp.endpoint has a user in it"),
        ("endpoint = \"http://c\"\ntoken = \"s3cret\\n\"", "otlp.token can't be sent"),
        ("endpoint = \"http://c\"\nheaders = { host = \"s3cret\" }", "otlp.headers.host is no header that can be set"),
        ("endpoint = \"http://c\"\nheaders = { x = \"s3cret\\n\" }", "otlp.headers.x can't be sent"),
        (
            "endpoint = \"http://c\"\ntoken = \"s3cret\"\nheaders = { Authorization = \"s3cret\" }",
            "otlp.headers has the header that otlp.token is for",
        ),
    ] {
        let definite = load(&with("otlp", lines), &[]).expect_err("can't be");
        let text = format!("{definite} {}", definite.hint);
        assert!(text.contains(what) && !text.contains("s3cret"), "{text}");
    }
}
