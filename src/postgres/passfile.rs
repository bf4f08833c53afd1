//! The password file, `~/.pgpass`: lines of `host:port:database:user:password`.
//!
//! As in libpq ("The Password File" in the PostgreSQL manual): `*` matches everything, `\` takes the next
//! character literally, the first line that matches wins, and a file that others can read is ignored with a
//! warning. Used by [`super::conninfo`] at each connection. The password goes nowhere but into its result.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The password for this connection, if the file has one.
pub(crate) fn find(path: &Path, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the password file can't be read; it is ignored");
            return None;
        }
    };
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "the password file is not a plain file; it is ignored");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the password file is readable by others; it is ignored until `chmod 0600`");
        return None;
    }
    let text = std::fs::read_to_string(path)
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "the password file can't be read; it is ignored"),
        )
        .ok()?;
    // A Unix socket is `localhost` there when it is in the default folder.
    let aliases = [host, if host.starts_with('/') { "localhost" } else { host }];
    text.lines()
        .find_map(|line| aliases.iter().find_map(|host| password(line, &[host, &port.to_string(), dbname, user])))
}

/// The password of a line that matches the four fields.
fn password(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for want in wanted {
        let (field, tail) = field(rest);
        rest = tail?;
        if field.raw != "*" && field.text != *want {
            return None;
        }
    }
    // The password ends at the next unescaped colon or at the end of the line.
    Some(field(rest).0.text).filter(|password| !password.is_empty())
}

struct Field<'a> {
    raw: &'a str,
    text: String,
}

/// One field and what follows its colon.
fn field(line: &str) -> (Field<'_>, Option<&str>) {
    let mut text = String::new();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => text.extend(characters.next().map(|(_, literal)| literal)),
            ':' => return (Field { raw: &line[..at], text }, Some(&line[at + 1..])),
            other => text.push(other),
        }
    }
    (Field { raw: line, text }, None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).expect("permissions");
        file
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        let file = file("# a comment\ndb1:5432:shop:app:first\ndb1:*:*:app:second\n*:*:*:*:last\n", 0o600);
        let find = |host, port, user| find(file.path(), host, port, "shop", user);
        assert_eq!(find("db1", 5432, "app").as_deref(), Some("first"));
        assert_eq!(find("db1", 5433, "app").as_deref(), Some("second"));
        assert_eq!(find("db2", 5433, "app").as_deref(), Some("last"));
    }

    #[test]
    fn escapes_and_short_lines() {
        let file = file("broken\ndb1:1\n\\*:*:*:*:literal star\n\\:\\:1:5432:shop:a\\\\b:pa\\:ss\\\\word\n", 0o600);
        assert_eq!(find(file.path(), "::1", 5432, "shop", r"a\b").as_deref(), Some(r"pa:ss\word"));
        assert_eq!(find(file.path(), "db1", 5432, "shop", "x"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let file = file("*:*:*:*:secret\n", 0o640);
        assert_eq!(find(file.path(), "db1", 5432, "shop", "app"), None);
        assert_eq!(find(Path::new("/nowhere/.pgpass"), "db1", 5432, "shop", "app"), None);
    }

    #[test]
    fn a_socket_is_localhost_too() {
        let file = file("localhost:*:*:*:secret\n", 0o600);
        assert_eq!(find(file.path(), "/run/pg", 5432, "shop", "app").as_deref(), Some("secret"));
    }
}
