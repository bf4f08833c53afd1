use crate::arguments::Arguments;
use crate::report::Report;
use crate::stage::Servers;

pub(crate) async fn run(_: &Arguments, _: &Servers, _: &mut Report) {}
