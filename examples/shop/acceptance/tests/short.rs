//! The whole shop, with a short load: the same program as `scripts/demo --shop`, in which each part is killed once.

use std::process::Command;

/// Says what is so, line by line. An inventory that releases nothing fails it at the stock and at the reservations. One that
/// forgets its inbox does not: the handlers are right when they are told something twice, and the inbox is tested by itself.
#[test]
fn it_comes_out_right_while_each_part_is_killed_and_started_again() {
    let seed = std::env::var("SHOP_SEED").ok();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_acceptance")]);
    command.args(["--seconds", "1", "--kills", "9", "--orders-per-second", "12", "--lock-timeout-ms", "4000"]);
    command.args(seed.iter().flat_map(|seed| ["--seed", seed]));
    let output = command.output().expect("run setpriv, of util-linux");
    let [said, complained] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    println!("{said}\n{complained}");
    assert!(output.status.success(), "{}; SHOP_SEED plays a seed again", output.status);
}
