//! The `ravelin` binary: the library with its built-in filters, and an allocator.

use std::process::ExitCode;

// Allocation is most of what a proxy does with memory: mimalloc does it in fewer instructions than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ravelin::App::new().run()
}
