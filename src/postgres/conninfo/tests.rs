use super::*;

fn parse(text: &str) -> Conninfo {
    parse_in(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn parse_in(text: &str, environment: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
    Conninfo::parse_with(text, &|name| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

fn refused(text: &str) -> String {
    parse_in(text, &[("USER", "me")]).expect_err(text).to_string()
}

fn tcp(name: &str, port: u16) -> Host {
    Host { address: Address::Tcp(name.to_owned()), hostaddr: None, port }
}

#[test]
fn a_url_with_everything() {
    let it =
        parse("postgresql://ap%40p:s%2Fec:ret@db1:5433,[::1]:5434,db3/sh%20op?sslmode=verify-full&options=-c%20a%3Db");
    assert_eq!(it.hosts(), [tcp("db1", 5433), tcp("::1", 5434), tcp("db3", 5432)]);
    assert_eq!((it.user(), it.dbname(), it.options()), ("ap@p", "sh op", Some("-c a=b")));
    assert_eq!(it.password, Some(Password::new("s/ec:ret")));
    assert_eq!(it.tls().mode, SslMode::VerifyFull);
    assert_eq!(it.display(), "postgres://ap%40p@db1:5433,[::1]:5434,db3/sh%20op");
}

#[test]
fn unix_sockets_in_both_spellings() {
    for text in ["postgres:///shop?host=/run/pg&user=app&port=6000", "postgres://app@%2Frun%2Fpg:6000/shop"] {
        let it = parse(text);
        assert_eq!(it.hosts()[0].socket(), Some("/run/pg/.s.PGSQL.6000".into()), "{text}");
        assert_eq!(it.display(), "postgres://app@%2Frun%2Fpg:6000/shop");
    }
}

#[test]
fn keyword_strings_with_quotes_and_escapes() {
    let it = parse(r"host = db1,db2 port=5433 user=app password='it\'s \\ a secret' dbname=sh\ op connect_timeout=3");
    assert_eq!(it.hosts(), [tcp("db1", 5433), tcp("db2", 5433)]);
    assert_eq!(it.password, Some(Password::new(r"it's \ a secret")));
    assert_eq!((it.dbname(), it.connect_timeout()), ("sh op", Duration::from_secs(3)));
}

#[test]
fn the_environment_is_beneath_the_string() {
    let environment = [("PGHOST", "env"), ("PGPASSWORD", "hush"), ("PGUSER", "envuser"), ("PGPORT", "1")];
    let it = parse_in("postgres://db1/shop", &environment).expect("valid");
    assert_eq!((it.hosts(), it.user()), (&[tcp("db1", 1)][..], "envuser"));
    assert_eq!(it.password, Some(Password::new("hush")));
    let error = parse_in("", &[("PGPORT", "none"), ("USER", "me")]).expect_err("no port");
    assert_eq!(error.to_string(), "`PGPORT` is `none`; allowed: a port from 1 to 65535");
}

#[test]
fn the_defaults_of_an_empty_string() {
    let it = parse_in("", &[("USER", "me"), ("HOME", "/nowhere")]).expect("valid");
    assert_eq!((it.hosts(), it.user(), it.dbname()), (&[tcp("localhost", 5432)][..], "me", "me"));
    assert_eq!((it.application_name(), it.connect_timeout().as_secs()), ("pgsluice", 10));
    assert_eq!((it.tls().mode, it.target()), (SslMode::Prefer, Target::Primary));
    assert_eq!(it.passfile, Some("/nowhere/.pgpass".into()));
    assert_eq!(parse_in("", &[]).expect_err("no user"), ConninfoError::NoUser);
}

#[test]
fn a_hostaddr_goes_with_its_host() {
    let it = parse("user=a host=db1 hostaddr=10.0.0.1");
    assert_eq!(it.hosts()[0].hostaddr, "10.0.0.1".parse().ok());
    assert_eq!(parse("user=a hostaddr=10.0.0.1").hosts()[0].address, Address::Tcp("10.0.0.1".to_owned()));
    assert!(refused("host=a,b hostaddr=10.0.0.1").contains("1 entries for 2 hosts"));
}

#[test]
fn what_is_wrong_is_named_with_what_is_allowed() {
    assert!(
        refused("postgres://h/d?sslmod=require").starts_with("unknown connection parameter `sslmod`; allowed: host, ")
    );
    assert!(refused("sslmode=on").contains("allowed: disable, allow, prefer"));
    assert!(refused("postgres://h:99999/d").contains("`port` is `99999`"));
    assert!(refused("host=a,b port=1,2,3").contains("3 entries for 2 hosts"));
    assert!(refused("mysql://h/d").contains("must begin with `postgres://`"));
    assert!(refused("host=a user").contains("after `host`"));
    assert!(refused("password='x").contains("the quoted value of `password`"));
    assert!(refused("connect_timeout=0").contains("at least 1"));
    assert!(refused("target_session_attrs=standby").contains("primary, read-write, any"));
    assert!(refused("sslcert=a").contains("together"));
    assert!(refused("sslrootcert=system sslmode=require").contains("verify-full"));
    assert!(refused("sslnegotiation=direct").contains("sslmode=require"));
}

#[test]
fn no_password_is_ever_shown() {
    let it = parse("postgres://app:verysecret@db1/shop");
    assert!(!format!("{it:?} {}", it.display()).contains("verysecret"));
    for text in [
        "postgres://app:verysecret@db1:port/shop",
        "postgres://app:verysecret@db1/shop?x",
        "postgres://app:verysecret%FF@db1/shop",
        "password=verysecret bogus=1",
        "password=verysecret bogus",
        "password='verysecret",
        "mysql://app:verysecret@db1",
    ] {
        assert!(!refused(text).contains("verysecret"), "{text}");
    }
}

#[test]
fn roots_from_the_system_imply_verify_full() {
    assert_eq!(parse("user=a sslrootcert=system").tls().mode, SslMode::VerifyFull);
}
