//! Parts of the data path, each for itself: time, throughput and allocations of one call.
//!
//! `cargo bench --bench micro` runs all of them, `cargo bench --bench micro -- encode` those of one part.

#[path = "micro/decode.rs"]
mod decode;
#[path = "micro/encode.rs"]
mod encode;
#[path = "micro/publish.rs"]
mod publish;
#[path = "micro/route.rs"]
mod route;
#[path = "micro/rules.rs"]
mod rules;
#[path = "micro/scene.rs"]
mod scene;
#[path = "../tests/synthetic/mod.rs"]
mod synthetic;
#[path = "micro/transfer.rs"]
mod transfer;

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
