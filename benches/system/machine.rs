//! On what it was measured.

use crate::stage::server_program;

/// A line of the results.
pub(crate) struct Machine {
    pub(crate) text: String,
}

impl Machine {
    pub(crate) fn look(servers: &crate::stage::Servers) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("an unknown CPU", |(_, model)| model);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let postgres = std::process::Command::new(server_program("postgres")).arg("--version").output();
        let postgres = postgres.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let postgres = postgres.trim().trim_start_matches("postgres (PostgreSQL) ").to_owned();
        let overview = servers.rabbitmq.api("GET", "/overview", None);
        let rabbitmq = overview["rabbitmq_version"].as_str().unwrap_or("?").to_owned();
        let erlang = overview["erlang_version"].as_str().unwrap_or("?");
        let text = format!(
            "{model}, {cores} cores, {} GiB; Linux {}; PostgreSQL {postgres}; RabbitMQ {rabbitmq}, Erlang {erlang}; \
             pgsluice {}. Everything on one machine, over loopback, without TLS; PostgreSQL with fsync off.",
            memory / 1024 / 1024,
            kernel.trim(),
            env!("CARGO_PKG_VERSION"),
        );
        Self { text }
    }
}
