//! The fuzz targets without the fuzzer: the recorded corpus, and random mutations of it, through the same functions; and
//! never more memory than the bytes account for.
//!
//! `FUZZ_SEED=n` plays one seed again; `FUZZ_SECONDS` sets for how long new ones are tried.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::alloc::System;
use std::path::Path;
use std::time::{Duration, Instant};

use cap::Cap;

/// Aborts with the size of the allocation that goes beyond the limit.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What may be allocated at a time, whatever the input says, in bytes.
const FIXED: usize = 256 << 10;
/// And how many times the input's length.
const TIMES: usize = 64;
/// A binary numeric of ten bytes may have 130,000 digits.
const TIMES_BINARY: usize = 64 << 10;

struct Target {
    check: fn(&[u8]),
    corpus: Vec<Vec<u8>>,
    times: usize,
}

impl Target {
    fn new(name: &str, check: fn(&[u8]), times: usize) -> Self {
        Self { check, corpus: corpus(name), times }
    }

    fn check_within_its_means(&self, input: &[u8]) {
        let limit = ALLOCATOR.allocated() + FIXED + self.times * input.len();
        ALLOCATOR.set_limit(limit).expect("there is room");
        (self.check)(input);
        ALLOCATOR.set_limit(usize::MAX).expect("there is room");
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        folder.read_dir().expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a file of the corpus")).collect()
}

/// Changes, removes, doubles or replaces some bytes; lengths and counts are as likely to be hit as values.
fn mutate(random: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: &[&[u8]] = &[
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\0",
        b"\xff\xff",
        b"\0",
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"(",
        b")",
        b",",
        b"\xc3",
    ];
    let mut input = random.choice(corpus).expect("a corpus").clone();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=input.len());
        let until = (at + random.usize(..8)).min(input.len());
        match random.u8(..6) {
            0 => input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.u8(..8)),
            1 => input.get_mut(at).into_iter().for_each(|byte| *byte = random.u8(..)),
            2 => drop(input.drain(at..until)),
            3 => {
                let telling = *random.choice(TELLING).expect("some");
                input.splice(at..(at + telling.len()).min(input.len()), telling.iter().copied());
            }
            4 => {
                let part = input[at..until].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = random.choice(corpus).expect("a corpus");
                let from = random.usize(..=other.len());
                let part = &other[from..(from + random.usize(..40)).min(other.len())];
                input.splice(at..until, part.iter().copied());
            }
        }
    }
    input
}

fn play(seed: u64, targets: &[Target]) {
    let mut random = fastrand::Rng::with_seed(seed);
    for target in targets {
        for _ in 0..20 {
            target.check_within_its_means(&mutate(&mut random, &target.corpus));
        }
    }
}

/// One test, since the limit of the memory is the whole process's.
#[test]
fn whatever_the_bytes_they_are_decoded_and_encoded_or_refused() {
    let stream: fn(&[u8]) = |bytes| _ = checks::stream(bytes);
    let targets = [
        Target::new("message", checks::message, TIMES),
        Target::new("stream", stream, TIMES),
        Target::new("value", checks::value, TIMES),
        Target::new("binary", checks::binary, TIMES_BINARY),
    ];
    for target in &targets {
        // What is made once, on the first call, is not counted.
        target.corpus.iter().for_each(|input| (target.check)(input));
        target.corpus.iter().for_each(|input| target.check_within_its_means(input));
    }
    // What a real server has sent is understood to its end.
    let recorded = corpus("stream").iter().map(|recorded| checks::stream(recorded)).collect::<Vec<_>>();
    assert!(recorded.iter().filter(|events| **events >= 20).count() >= 5, "{recorded:?}");

    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = variable("FUZZ_SEED") {
        return play(seed, &targets);
    }
    let end = Instant::now() + Duration::from_secs(variable("FUZZ_SECONDS").unwrap_or(5));
    let first = fastrand::u64(..u64::MAX / 2);
    let mut seed = first;
    while Instant::now() < end {
        // An abort says nothing else.
        println!("FUZZ_SEED={seed}");
        play(seed, &targets);
        seed += 1;
    }
    println!("{} seeds from {first}", seed - first);
}
