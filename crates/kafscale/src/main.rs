//! The kafscale binary: arguments -> validated config -> run.

fn main() {}
