//! Passwords within connection strings: of a URL, or of libpq's keywords. What may be part of one goes too.

use std::sync::LazyLock;

use regex::Regex;

/// In the place of a secret.
pub const REDACTED: &str = "***";

static USERINFO: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^([A-Za-z][A-Za-z0-9+.-]*://[^:@/?#]*):.*@").expect("is valid"));
static PARAMETER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)([?&][a-z_]*password=)[^&#]*").expect("is valid"));
static KEYWORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b([a-z_]*password\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)").expect("is valid")
});
/// What [`REDACTED`] leaves of them.
static MARKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i):\*\*\*(@)|([?])[a-z_]*password=\*\*\*&?|&[a-z_]*password=\*\*\*|\s*\b[a-z_]*password\s*=\s*\*\*\*",
    )
    .expect("is valid")
});

/// The text with `***` for each password.
#[must_use]
pub fn redacted(text: &str) -> String {
    if text.contains("://") {
        let text = USERINFO.replace(text, format!("$1:{REDACTED}@"));
        return PARAMETER.replace_all(&text, format!("${{1}}{REDACTED}")).into_owned();
    }
    KEYWORD.replace_all(text, format!("${{1}}{REDACTED}")).into_owned()
}

/// The text without passwords; none when it has none.
#[must_use]
pub fn removed(text: &str) -> Option<String> {
    let redacted = redacted(text);
    (redacted != text).then(|| MARKED.replace_all(&redacted, "$1$2").trim().trim_end_matches('?').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_left() {
        for (text, shown, without) in [
            ("postgres://app:s3cret@db1:5432/shop", "postgres://app:***@db1:5432/shop", "postgres://app@db1:5432/shop"),
            ("amqps://a:s@e/c:ret@mq1,mq2/shop", "amqps://a:***@mq1,mq2/shop", "amqps://a@mq1,mq2/shop"),
            (
                "postgres://db1/shop?user=a&password=s3cret&sslmode=require",
                "postgres://db1/shop?user=a&password=***&sslmode=require",
                "postgres://db1/shop?user=a&sslmode=require",
            ),
            (
                "postgres://db1/shop?password=s3cret&user=a",
                "postgres://db1/shop?password=***&user=a",
                "postgres://db1/shop?user=a",
            ),
            ("postgres://db1/shop?password=s3cret", "postgres://db1/shop?password=***", "postgres://db1/shop"),
            ("host=db1 password=s3cret user=app", "host=db1 password=*** user=app", "host=db1 user=app"),
            (r"password = 's3\'cret x' host=db1", "password = *** host=db1", "host=db1"),
        ] {
            assert_eq!(redacted(text), shown);
            assert_eq!(removed(text).as_deref(), Some(without), "{text}");
        }
        for text in ["postgres://app@db1/shop", "host=db1 user=app", "amqp://guest@localhost"] {
            assert_eq!((redacted(text), removed(text)), (text.to_owned(), None));
        }
    }
}
