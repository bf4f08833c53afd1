//! Parts of the data path, each for itself.

fn main() {
    divan::main();
}
