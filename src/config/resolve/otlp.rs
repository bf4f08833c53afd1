//! `[otlp]`.

use std::collections::BTreeMap;

use anyhow::anyhow;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::{MAX_WAIT_MS, Origins, in_range, millis, secret, written};
use crate::config::OtlpSettings;
use crate::failure::Definite;

const ENDPOINT: &str = "a URL that takes OTLP over HTTP, as in \"http://collector:4318\"";
/// Where spans go below an endpoint, unless it says so itself.
const TRACES: &str = "/v1/traces";

pub(super) fn otlp(at: &Origins, written: written::Otlp) -> Result<Option<OtlpSettings>, Definite> {
    let written::Otlp { endpoint, token, token_file, headers, tls_ca_file, timeout_ms, sample_per_million } = written;
    let given = [
        ("token", token.is_some()),
        ("token_file", token_file.is_some()),
        ("headers", headers.is_some()),
        ("tls_ca_file", tls_ca_file.is_some()),
    ];
    let timeout = millis(at, "otlp.timeout_ms", timeout_ms, 10_000, 1..=MAX_WAIT_MS)?;
    let sample_per_million = in_range(at, "otlp.sample_per_million", sample_per_million, 0, 0..=1_000_000, "events")?;
    let Some(endpoint) = endpoint else {
        return match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(None),
            Some((key, _)) => {
                let hint = format!("set otlp.endpoint: {ENDPOINT}");
                Err(at.wrong(&format!("otlp.{key}"), "has no meaning without otlp.endpoint", hint))
            }
        };
    };
    let token = secret(at, "otlp.token", "otlp.token_file", token, token_file)?;
    Ok(Some(OtlpSettings {
        traces: traces(at, &endpoint)?,
        headers: self::headers(at, headers.unwrap_or_default(), token)?,
        tls_ca: tls_ca_file.map(|file| at.folder().join(file)),
        timeout,
        sample_per_million,
    }))
}

/// Never quoted: there may be a password in it.
fn traces(at: &Origins, endpoint: &str) -> Result<Uri, Definite> {
    let wrong = |what: &str| Err(at.wrong("otlp.endpoint", what, ENDPOINT));
    if endpoint.contains('@') {
        let hint = "otlp.token, or otlp.headers, say who asks";
        return Err(at.wrong("otlp.endpoint", "has a user in it", hint));
    }
    let base = endpoint.trim_end_matches('/');
    let url = if base.ends_with(TRACES) { base.to_owned() } else { format!("{base}{TRACES}") };
    let Ok(uri) = url.parse::<Uri>() else { return wrong("is no URL") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return wrong("is no URL of http or https");
    }
    if uri.query().is_some() {
        return wrong("has a query in it");
    }
    Ok(uri)
}

fn headers(at: &Origins, written: BTreeMap<String, String>, token: Option<String>) -> Result<HeaderMap, Definite> {
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let key = format!("otlp.headers.{name}");
        let parsed = name.parse::<HeaderName>().ok();
        let ours = [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];
        let Some(name) = parsed.filter(|name| !ours.contains(name)) else {
            return Err(at.wrong(&key, "is no header that can be set", "as in headers = { x-tenant = \"shop\" }"));
        };
        headers.insert(name, hidden(at, &key, &value)?);
    }
    if let Some(token) = token
        && headers.insert(AUTHORIZATION, hidden(at, "otlp.token", &format!("Bearer {token}"))?).is_some()
    {
        let hint = "keep otlp.token, or the header authorization";
        return Err(at.wrong("otlp.headers", "has the header that otlp.token is for", hint));
    }
    Ok(headers)
}

fn hidden(at: &Origins, key: &str, value: &str) -> Result<HeaderValue, Definite> {
    let parsed =
        value.parse::<HeaderValue>().map_err(|_| anyhow!("it has other characters than visible ones of ASCII"));
    let mut value = parsed
        .map_err(|error| at.wrong_because(key, "can't be sent", error, "allowed: what HTTP allows in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
