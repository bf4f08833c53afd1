//! The two ways to write a connection string, reduced to `(key, value)` pairs.
//!
//! Follows libpq, section "Connection Strings" of the PostgreSQL manual. It knows no keys; [`super`] does.
//! Its errors hold positions and keys, never the text itself, because a password may be anywhere in it.

use percent_encoding::percent_decode_str;

use super::ConninfoError;

/// `(key, value)` in the order in which they were written; later ones win.
pub(super) type Pairs = Vec<(String, String)>;

/// Splits a connection string of either kind.
pub(super) fn pairs(text: &str) -> Result<Pairs, ConninfoError> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => url(rest),
        None if text.contains("://") && !text.split("://").next().unwrap_or_default().contains('=') => {
            Err(ConninfoError::Scheme)
        }
        None => keywords(text),
    }
}

/// `[user[:password]@][host[:port],…][/dbname][?key=value&…]`
fn url(rest: &str) -> Result<Pairs, ConninfoError> {
    let mut pairs = Pairs::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, dbname) = rest.split_once('/').map_or((rest, None), |(rest, dbname)| (rest, Some(dbname)));
    // The last `@`, so that a password with an unescaped one is still read as it was meant.
    let (userinfo, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
        push(&mut pairs, "user", user)?;
        push(&mut pairs, "password", password.unwrap_or_default())?;
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(name);
        ports.push(port);
    }
    push(&mut pairs, "host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        push(&mut pairs, "port", &ports.join(","))?;
    }
    push(&mut pairs, "dbname", dbname.unwrap_or_default())?;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(ConninfoError::UrlPair)?;
        pairs.push((decode("a key", key)?, decode(key, value)?));
    }
    Ok(pairs)
}

/// `db1`, `db1:5433`, `[::1]:5433`, `%2Frun%2Fpostgresql`
fn host_and_port(host: &str) -> Result<(&str, &str), ConninfoError> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let (name, rest) = bracketed.split_once(']').ok_or(ConninfoError::Bracket)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if rest.is_empty() => Ok((name, "")),
            None => Err(ConninfoError::Bracket),
        };
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn push(pairs: &mut Pairs, key: &str, value: &str) -> Result<(), ConninfoError> {
    if !value.is_empty() {
        pairs.push((key.to_owned(), decode(key, value)?));
    }
    Ok(())
}

fn decode(key: &str, value: &str) -> Result<String, ConninfoError> {
    match percent_decode_str(value).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err(ConninfoError::Encoding { key: key.to_owned() }),
    }
}

/// `key=value key='a value with \'quotes\' and spaces'`
fn keywords(text: &str) -> Result<Pairs, ConninfoError> {
    let mut pairs = Pairs::new();
    let mut rest = text;
    while !rest.is_empty() {
        let equals = rest.find('=').ok_or(ConninfoError::KeywordPair { after: last_key(&pairs) })?;
        let key = rest[..equals].trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(ConninfoError::KeywordPair { after: last_key(&pairs) });
        }
        let (value, tail) = keyword_value(key, rest[equals + 1..].trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

fn last_key(pairs: &Pairs) -> String {
    pairs.last().map_or_else(|| "the beginning".to_owned(), |(key, _)| format!("`{key}`"))
}

/// One value and what follows it. A backslash takes the next character literally, quoted or not.
fn keyword_value<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), ConninfoError> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, literal)| literal)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            space if !quoted && space.is_whitespace() => return Ok((value, &body[at..])),
            other => value.push(other),
        }
    }
    if quoted { Err(ConninfoError::Quote { key: key.to_owned() }) } else { Ok((value, "")) }
}
